"""Ground truth of a fleet: how many labelled answers were right, by device, bundle, hour and segment; business figures; labels in bulk."""
