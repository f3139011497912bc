"""The channel between agentd and one worker: its messages, how the process is started, and with which priority.

Loads no numpy: agentd imports it.
"""
