"""Service level objectives: `edgectl slo`."""
