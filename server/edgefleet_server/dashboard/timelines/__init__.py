"""Charts of figures over time on the pages of the fleet, models, groups and devices, and the page that says why latency rose."""
