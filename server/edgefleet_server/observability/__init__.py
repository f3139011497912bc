"""How the server shows its own state: metrics, readiness checks and log lines."""
