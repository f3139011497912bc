"""The trial of a new version: what it is held to, the figures it is judged by, and the return to the previous slot.

`monitor` acts, the others are pure.
"""
