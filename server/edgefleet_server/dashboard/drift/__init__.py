"""The page of drift over the fleet: which models, signals and sites drift, the worst first."""
