"""Where inputs come from, other than requests: a folder that fills, lines of standard input, a camera, a local MQTT broker.

Each is a caller of the local inference API like any other (`edgefleet_agent.client`), in a process of its own: none is loaded by agentd.
"""
