"""Local drift: the detector runs in agentd on what the active workers count, also without a server."""
