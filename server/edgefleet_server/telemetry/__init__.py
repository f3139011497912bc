"""Telemetry windows of devices: ingest, retention, and the figures read from them."""
