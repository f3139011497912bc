"""`metrics` of the fleet, a model, a group and a device, and `model explain`: figures over time, and why latency rose."""
