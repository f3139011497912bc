"""How the Python client reaches the worker that answers: HTTP over a socket, and shared memory. Standard library only."""
