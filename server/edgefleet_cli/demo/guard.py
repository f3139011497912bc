"""The demo's guard: when the demo is gone, however it died, its processes and its temporary folder go too.

Runs as a process of its own in its own session. Standard input is a pipe from the demo; lines are `+PGID` (a process
group was started), `-PGID` (it has ended), `rm PATH` (remove this folder at the end) and `keep PATH` (do not). End of
input means the demo is gone: groups still there get SIGTERM, after a grace SIGKILL. Imports only what starts quickly.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import time

GRACE_S = 8.0
_POLL_S = 0.05


def main() -> None:
    """Follow the pipe until its end, then clean up."""
    for name in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(name, signal.SIG_IGN)
    groups: set[int] = set()
    folders: list[str] = []
    for line in sys.stdin:
        if line.startswith("+"):
            groups.add(int(line[1:]))
        elif line.startswith("-"):
            groups.discard(int(line[1:]))
        elif line.startswith("rm "):
            folders.append(line[3:].rstrip("\n"))
        elif line.startswith("keep "):
            folders.remove(line[5:].rstrip("\n"))
    end_groups(groups)
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def end_groups(groups: set[int]) -> None:
    """Stop all process groups: SIGTERM, wait up to GRACE_S, SIGKILL."""
    for group in groups:
        signal_group(group, signal.SIGTERM)
    deadline_s = time.monotonic() + GRACE_S
    alive = set(groups)
    while alive and time.monotonic() < deadline_s:
        alive = {group for group in alive if signal_group(group, 0)}
        time.sleep(_POLL_S)
    for group in alive:
        signal_group(group, signal.SIGKILL)


def signal_group(group: int, number: int) -> bool:
    """Send a signal to a process group; tell whether the group exists."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)
        return True
    return False


if __name__ == "__main__":
    main()
