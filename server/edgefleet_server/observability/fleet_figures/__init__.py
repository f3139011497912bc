"""Figures of the fleet and its models at `/metrics`: the table of them, their values, and how they reach Prometheus."""
