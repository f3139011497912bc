"""Pages of alerts: what fires, the rules, what suppresses them, and where messages go."""
