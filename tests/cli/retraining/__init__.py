"""`edgectl trigger` and `edgectl retrain`, and the runner that trains."""
