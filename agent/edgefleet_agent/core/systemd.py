"""The two things that systemd and a service say to each other: notifications, and sockets that systemd opened. No library needed.

1. `sd_notify`: one datagram of `KEY=value` lines to NOTIFY_SOCKET ("@" = abstract). Source: sd_notify(3).
2. Socket activation: descriptors from 3 on, LISTEN_FDS of them, when LISTEN_PID is us. Source: sd_listen_fds(3).
3. The watchdog is fed by the loop itself, and only while the disk and the queue answer as well: a loop that hangs, a disk that
   hangs, or a queue that is locked up is not fed for, and systemd starts the agent again. A disk that is merely full or read-only
   answers, so it does not end what serves: `doctor` and the reports tell of it.
"""

import os
import socket
from collections.abc import Callable, Mapping, MutableMapping
from contextlib import suppress

FIRST_FD = 3


def notify(*lines: str, environment: Mapping[str, str] = os.environ) -> bool:
    """Tell systemd; return whether somebody listens. Never raises, never blocks."""
    address = environment.get("NOTIFY_SOCKET", "")
    if not address:
        return False
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        channel.setblocking(False)
        channel.sendto("\n".join(lines).encode(), "\0" + address[1:] if address[0] == "@" else address)
        return True
    return False


def watchdog_s(environment: Mapping[str, str] = os.environ, pid: int | None = None) -> float:
    """Return how often systemd wants to hear of us, a third of its limit; 0 = it does not."""
    if environment.get("WATCHDOG_PID", str(pid or os.getpid())) != str(pid or os.getpid()):
        return 0.0
    try:
        return max(0, int(environment.get("WATCHDOG_USEC", "0"))) / 3e6
    except ValueError:
        return 0.0


_given: list[int] = []
"""Descriptors as systemd gave them; kept open for a restart in place."""


def given_sockets(environment: MutableMapping[str, str] = os.environ, pid: int | None = None) -> list[socket.socket]:
    """Return the listening stream sockets that systemd opened for us, non-blocking; children do not inherit the variables."""
    is_ours = environment.get("LISTEN_PID") == str(pid or os.getpid())
    count = environment.get("LISTEN_FDS", "") if is_ours else ""
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        environment.pop(name, None)
    found = []
    for fd in range(FIRST_FD, FIRST_FD + (int(count) if count.isdigit() else 0)):
        _given.append(fd)
        os.set_inheritable(fd, False)
        given = socket.socket(fileno=os.dup(fd))
        given.setblocking(False)
        found.append(given)
    return found


def hand_on(environment: MutableMapping[str, str] = os.environ) -> None:
    """Give what systemd gave us to the program that replaces this one in the same process."""
    for fd in _given:
        os.set_inheritable(fd, True)
    if _given:
        environment.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(_given)))


class Watchdog:
    """Feeds systemd's watchdog. is_live: disk and queue answer; raising counts as no."""

    def __init__(self, call_later: Callable[[float, Callable[[], None]], object], is_live: Callable[[], bool]) -> None:
        self._call_later = call_later
        self._is_live = is_live
        self._every_s = watchdog_s()

    def start(self) -> None:
        """Say that we are ready, and feed from now on."""
        notify("READY=1", "STATUS=running")
        if self._every_s:
            self._feed()

    def _feed(self) -> None:
        # the next look first: one that raises must not be the last
        self._call_later(self._every_s, self._feed)
        if self._is_live():
            notify("WATCHDOG=1")
