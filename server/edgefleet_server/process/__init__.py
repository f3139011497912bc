"""What runs as a process and how it lives: start and stop of the server, its engine thread, conversion workers, `server init`.

Only `main` stands above this package. `init`, `conversion_worker` and `openapi_file` are entries for `python -m`.
"""
