"""Which MQTT broker runs, and how: `model` (choice), `supervisor` (child process), `mosquitto` and `embedded` (the two kinds).

This folder goes beyond the file names of a server feature because each module is one part of another program's life:
its configuration, its child process, or the gate in front of it.
"""
