"""Service level objectives of models: files in OpenSLO form, error budgets over a rolling window, and how fast they burn (ADR 0106)."""
