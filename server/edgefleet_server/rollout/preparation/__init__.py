"""Reads what a reconcile pass looks at: the snapshot, the population, overlaps, metrics of devices, and a cache of what rarely
changes.
"""
