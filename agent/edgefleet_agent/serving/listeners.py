"""The public listeners of a device: systemd's socket where it gave one, else our own; and always a unix socket."""

import errno
import socket
import time
from pathlib import Path

from edgefleet_agent.core.systemd import given_sockets
from edgefleet_agent.errors import PortTakenError
from edgefleet_agent.settings import AgentSettings
from edgefleet_agent.worker.control.launch import listen_tcp, listen_unix
from edgefleet_protocol.clock import Clock

PORT_WAIT_S = 5.0


def public_listeners(settings: AgentSettings, unix_path: Path, clock: Clock) -> list[socket.socket]:
    """Return the TCP listener and the unix one, in this order. Raises PortTakenError, OSError."""
    given = [one for one in given_sockets() if one.family != socket.AF_UNIX]
    tcp = given[0] if given else _own_tcp(settings.infer_host, settings.infer_port, clock)
    return [tcp, listen_unix(unix_path)]


def url_of(listener: socket.socket) -> str:
    """Return where an open TCP listener answers."""
    address = listener.getsockname()
    host = f"[{address[0]}]" if ":" in address[0] else address[0]
    return f"http://{host}:{address[1]}"


def _own_tcp(host: str, port: int, clock: Clock) -> socket.socket:
    """Return a listener of our own. After a kill of agentd an old worker may hold the port for a moment longer."""
    give_up = clock.monotonic_s() + PORT_WAIT_S
    while True:
        try:
            return listen_tcp(host, port)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or clock.monotonic_s() > give_up:
                raise PortTakenError(f"{host}:{port} cannot be listened on: {error.strerror}") from error
        time.sleep(0.1)
