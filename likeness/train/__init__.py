"""Training: the objective, the loop, and the optimiser that small models learn fastest with."""
