"""What runs below a process, for tests that end it."""

from __future__ import annotations

from pathlib import Path


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
