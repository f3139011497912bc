"""Shadowing: copies of answered requests go to the candidate, and its answers are compared with those that were given."""
