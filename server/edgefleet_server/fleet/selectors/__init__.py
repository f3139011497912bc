"""Selectors: their grammar, the same as SQL conditions, and which and how many devices they match."""
