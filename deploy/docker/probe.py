#!/usr/bin/python3 -IS
"""Health check of the images: `edgefleet-probe server | agent`. Exit code 0: well. No library, since it runs every half minute. ADR 0146.

- server: `/readyz` of this process answers 200. A process without the role `api` has no listener: then its lock must be held.
- agent: its loop answers on its control socket. A container without an enrolled device is not well.
"""

import fcntl
import json
import os
import socket
import ssl
import sys
import urllib.error
import urllib.request
from pathlib import Path

ANSWER_S = 5.0


def server(folder: Path) -> str:
    """Return why a server is not well, "" when it is."""
    roles = os.environ.get("EDGEFLEET_SERVER_ROLES", "api")
    if "api" not in roles:
        instance = os.environ.get("EDGEFLEET_SERVER_INSTANCE", "main")
        return "" if is_locked(folder / "run" / f"{instance}.lock") else "no server process runs"
    try:
        url = json.loads((folder / "run" / "server.json").read_text("utf-8"))["api_url"]
    except (OSError, ValueError, KeyError):
        return "the server does not listen yet"
    context = ssl.create_default_context()
    context.check_hostname = False  # the connection does not leave this container
    context.verify_mode = ssl.CERT_NONE
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=ANSWER_S, context=context):  # noqa: S310  # our own address
            return ""
    except urllib.error.HTTPError as error:
        return error.read(2000).decode("utf-8", "replace")
    except OSError as error:
        return str(error)


def agent(folder: Path) -> str:
    """Return why an agent is not well, "" when it is."""
    if not is_locked(folder / "agent.lock"):
        return "no agent runs; is the device enrolled?"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as call:
        call.settimeout(ANSWER_S)
        try:
            call.connect(json.loads((folder / "run" / "status.json").read_text("utf-8"))["control_socket"])
            call.sendall(b'{"do": "probe"}\n')
            return "" if json.loads(call.recv(4096)).get("alive") else "the agent is not alive"
        except (OSError, ValueError, KeyError) as error:
            return f"the agent does not answer: {error}"


def is_locked(path: Path) -> bool:
    """Say whether a process holds a lock."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def main() -> int:
    """Probe what the command line names."""
    if sys.argv[1:] == ["server"]:
        why = server(Path(os.environ.get("EDGEFLEET_SERVER_DATA", "/var/lib/edgefleet-server")))
    else:
        why = agent(Path(os.environ.get("EDGEFLEET_AGENT_STATE", "/var/lib/edgefleet-agent")))
    sys.stdout.write(f"{why or 'ok'}\n")
    return 1 if why else 0


if __name__ == "__main__":
    sys.exit(main())
