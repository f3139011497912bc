"""Load on a whole server by simulated devices: soaks, and small samples of them in the suite."""
