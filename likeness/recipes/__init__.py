"""Recipes that train the tiny models shipped with the package."""
