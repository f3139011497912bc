"""The inference worker: one process per loaded model version and lane.

1. agentd starts it as `python -m edgefleet_agent.worker --control-fd N` (`launch.py`) and speaks `protocol.py` with it.
2. agentd imports only those two modules of this package, and `gentle.py`; they load neither numpy nor a runtime.
"""
