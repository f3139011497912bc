"""What runs below a process, for tests that end it; what a process of tests cleans up at its end."""

from __future__ import annotations

import atexit
from collections.abc import Callable
from pathlib import Path

_AT_END: list[Callable[[], object]] = []
_ELSEWHERE_S: list[float] = []


def at_end(call: Callable[[], object]) -> None:
    """Call it when the tests of this process are over; where it runs none, when it exits.

    A worker of pytest-xdist has 10 s to exit before it is killed, so what waits for its exit may never run.
    """
    if not _AT_END:
        atexit.register(clean_up)
    _AT_END.append(call)


def clean_up() -> None:
    """Call what `at_end` was given, the last first, each once."""
    while _AT_END:
        _AT_END.pop()()


def count_elsewhere(processor_s: float) -> None:
    """Add the processor time of an ended process that was not a child of this one, but is counted as if it were."""
    _ELSEWHERE_S.append(processor_s)


def elsewhere_s() -> float:
    """Return the processor seconds that `count_elsewhere` was given."""
    return sum(_ELSEWHERE_S)


def descendants(pid: int) -> set[int]:
    """Return the living processes below `pid`."""
    children: dict[int, set[int]] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = entry.read_text(errors="replace").rpartition(")")[2].split()[1]
        except OSError:
            continue
        children.setdefault(int(parent), set()).add(int(entry.parent.name))
    found: set[int] = set()
    left = [pid]
    while left:
        below = children.get(left.pop(), set()) - found
        found |= below
        left.extend(below)
    return found


def gone(pids: set[int]) -> bool:
    """Tell whether none of these processes works any more; one that only waits to be reaped does not."""
    for pid in pids:
        try:
            if Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0] not in "ZX":
                return False
        except OSError:
            continue
    return True
