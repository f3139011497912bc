"""Start, readiness and end of a server process, and the work of its engine. `main.py` is the process around it."""
