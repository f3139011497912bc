"""`edgectl audit`: who changed what, and whether the trail of it is whole."""
