"""How fast a rollout may go: admission of offers, download leases, ramps and start jitter. Pure."""
