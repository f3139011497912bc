"""Telemetry through mosquitto into the server's database: the parts of `./dev bench ingest`."""
