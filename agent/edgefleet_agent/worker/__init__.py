"""The inference worker: one process per loaded model version and lane.

1. agentd starts it as `python -m edgefleet_agent.worker --control-fd N`; `launch.py` is that side, `protocol.py` the language between them.
2. Nothing here is imported by agentd except `protocol.py` and `launch.py`, which load neither numpy nor a runtime.
"""
