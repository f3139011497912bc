"""What runs as a process and how it lives: start and stop of the server, its engine thread, conversion workers, `server init`.

Only `main` stands above this package. `init`, `conversion_worker` and `openapi_file` are entries for `python -m`. Each of them begins
here, so here the libraries of key services, where they are installed, are left out of its start: a tenth of a second of processor time.
"""

from edgefleet_server.signing.keys import service_libraries

service_libraries.leave_out()
