"""Pages of the fleet: overview, list of devices, what is done to many of them, groups."""
