"""Smaller forms of a compiled graph: full-integer int8, dynamic-range and weight-only int8, float16 weights."""
