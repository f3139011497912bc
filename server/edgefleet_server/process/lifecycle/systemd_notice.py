"""Lines of sd_notify(3) for systemd."""

import os
import socket
from contextlib import suppress


def notify_systemd(*lines: str) -> None:
    """Send lines of sd_notify(3) to systemd, where it listens. Never raises, never blocks."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        channel.setblocking(False)
        channel.sendto("\n".join(lines).encode(), "\0" + address[1:] if address[0] == "@" else address)
