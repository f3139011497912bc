"""Exact sums of telemetry by time, model and cohort of devices: what charts, figures and objectives read (ADR 0104)."""
