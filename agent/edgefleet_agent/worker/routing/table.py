"""The routing table as it is on disk.

It is read again when its file changes; the check costs one stat, at most ten times a second.
"""

import asyncio
import os
from pathlib import Path

from edgefleet_agent.worker.control.protocol import (
    BadControlMessageError,
    LaneRoute,
    ModelRoute,
    RoutesTable,
    decode_routes,
)

_TABLE_CHECK_S = 0.1


class Routes:
    """The routing table as it is on disk now; without a file, this worker alone."""

    def __init__(self, path: str, fallback: RoutesTable, loop: asyncio.AbstractEventLoop) -> None:
        self._path = Path(path) if path else None
        self._table = fallback
        self._loop = loop
        self._identity: tuple[int, int, int] | None = None
        self._checked_at = float("-inf")

    def table(self, *, fresh: bool = False) -> RoutesTable:
        """Return the table. fresh: look at the file whatever the time of the last look."""
        now = self._loop.time()
        if self._path is None or (not fresh and now - self._checked_at < _TABLE_CHECK_S):
            return self._table
        self._checked_at = now
        try:
            stat = os.stat(self._path)  # noqa: PTH116 - the cheapest form, on the path of every request
            identity = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
            if identity != self._identity:
                self._table = decode_routes(self._path.read_bytes())
                self._identity = identity
        except (OSError, BadControlMessageError):
            pass  # agentd replaces the file atomically; whatever is wrong now, the last good table still answers
        return self._table


def lane_of_version(route: ModelRoute, version: str) -> LaneRoute | None:
    """Return the lane that serves a version, the active one first."""
    for name in sorted(route.lanes, key=lambda lane: lane != "active"):
        if route.lanes[name].version == version:
            return route.lanes[name]
    return None
