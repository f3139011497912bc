"""What a person, or the server on their behalf, asks of one device: looking, measuring, checking, packing up evidence.

Every module here runs in a short process of its own (`edge-agent …`, or the child of a signed task), never in agentd.
"""
