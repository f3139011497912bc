"""Ties the life of a foreign broker program to the life of the server that started it (our own embedded one watches its stdin).

`python -m edgefleet_server.gateway.broker.parent_watch PARENT_PID PROGRAM [ARG …]` becomes PROGRAM. On Linux the kernel then kills
it when the starting thread ends, for whatever reason, `kill -9` included. Elsewhere a small process watches,
notices the parent's end within half a second, and stops it.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from types import FrameType

_PR_SET_PDEATHSIG = 1
_POLL_S = 0.5


def die_with_parent(parent_pid: int) -> bool:
    """Ask the kernel to end this process with its parent; False where there is no such call. Exits if it is gone already.

    By SIGKILL, because the signal comes once: mosquitto loses a SIGTERM that comes just after it says "running".
    """
    if not sys.platform.startswith("linux"):
        return False
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) != 0:
        return False
    if os.getppid() != parent_pid:  # it died before the call: the signal will never come
        sys.exit(0)
    return True


def watch(parent_pid: int, command: list[str]) -> int:
    """Run `command` until it or the parent ends; returns its exit code. Blocks. SIGTERM and SIGHUP are passed on."""
    child = subprocess.Popen(command)

    def pass_on(number: int, _frame: FrameType | None) -> None:
        child.send_signal(number)

    signal.signal(signal.SIGTERM, pass_on)
    signal.signal(signal.SIGHUP, pass_on)
    while True:
        try:
            return child.wait(timeout=_POLL_S)
        except subprocess.TimeoutExpired:
            if os.getppid() != parent_pid:
                child.terminate()


def main(arguments: list[str]) -> int:
    """Become the program, or watch it where the kernel cannot help."""
    parent_pid, command = int(arguments[0]), arguments[1:]
    if die_with_parent(parent_pid):
        os.execv(command[0], command)  # noqa: S606 - the point of this module; argument list, no shell
    return watch(parent_pid, command)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
