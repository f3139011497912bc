"""Figures, requests and logs for a collector that takes OTLP over HTTP (extra `otel`, ADR 0107). Not loaded without an address."""
