"""Recipes of the tiny face pack: recogniser, detector, parser and the probe of attributes."""
