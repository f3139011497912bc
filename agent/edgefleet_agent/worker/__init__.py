"""The inference worker: one process per loaded model version and lane.

1. agentd starts it as `python -m edgefleet_agent.worker --control-fd N` (`control.launch`) and speaks `control.protocol` with it.
2. agentd imports only the package `control`, whose modules load neither numpy nor a runtime.
"""
