"""What every part of the agent stands on and what knows nothing of models: main loop, durable files, systemd, cgroups, logs.
Imports no library but msgspec.
"""
