"""Ports of servers that come back at the port they had."""

from __future__ import annotations

import random
import socket
from pathlib import Path

_LOWEST = 10_000
_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")


def kept_port() -> int:
    """Return a free port of loopback that the system gives to nobody by itself.

    One that it chose could be the next connection's of any process while the server is down: then the server does not come back.
    """
    above = int(_RANGE.read_text("ascii").split()[0]) if _RANGE.is_file() else 32_768
    while True:
        port = random.SystemRandom().randrange(_LOWEST, above)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
