"""edgectl, the operator command line."""
