"""Drift: the shipped detector, a PSI limit and three detectors of others on the same streams."""
