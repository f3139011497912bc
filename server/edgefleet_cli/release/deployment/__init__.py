"""`edgectl deploy`: a release becomes the desired version of devices, at once, by a named strategy, or as a candidate."""
