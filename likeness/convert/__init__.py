"""From published checkpoints, as their authors saved them, to model folders that Likeness opens."""
