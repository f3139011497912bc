"""Drift: what signals of a model look like when all is well, what they look like now, and whether the difference is more than chance."""
