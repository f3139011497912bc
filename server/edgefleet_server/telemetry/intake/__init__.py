"""Takes telemetry of devices: checks windows, stores each message once, and adds it to what is kept by time."""
