"""`edgectl trigger` and `edgectl retrain`: when a model is trained again, the retrainings, and the runner that trains."""
