"""What edgefleet needs of an MQTT broker, as checks that run against any broker: `catalogue` says what and why, `runner` runs them.

Every check uses devices and server accounts of its own and cleans up, so a broker with a fleet on it can be checked.
"""
