"""Source model + profile + recipe -> proved, reproducible bundle."""
