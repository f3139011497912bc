"""Drift as the server sees it: histograms of signals by device and time, compared with the reference, and where in the fleet they moved."""
