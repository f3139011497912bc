"""Replaces a serving worker whose memory grows without end by a new one of the same slot, before the device suffers for it.

1. By the rule of `install/probation/memory_leak.py`. On trial the same is a reason to go back, long before it has lasted
   `MIN_AGE_S` (`install/probation/monitor.py`).
2. No request is lost: the new worker is loaded and proved first, both accept for a moment, the old one drains (`serving`).
3. A version that leaks fast is not replaced more often than every `MIN_AGE_S`.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace

from edgefleet_agent.core.loop import Loop
from edgefleet_agent.install.probation import memory_leak

LOOK_S = 60.0
MIN_AGE_S = 600.0
LIMIT_SHARE = 0.9
"""Of a limit that was set, so much is reached before the kernel refuses memory in the middle of a request."""

log = logging.getLogger(__name__)


def why(known: memory_leak.Resident, memory: memory_leak.Memory) -> str:
    """Return why the worker of these readings is to be replaced, "" when it is not. Pure."""
    if not known.at or known.at[-1][0] - known.at[0][0] < MIN_AGE_S:
        return ""
    memory = replace(memory, limit_bytes=int(memory.limit_bytes * LIMIT_SHARE))
    return memory_leak.leak(known, memory, min_span_s=MIN_AGE_S)


class MemoryRestarter:
    """Looks at the workers once a minute. pids: of the serving workers by model; recycle: False when it cannot be done now."""

    def __init__(
        self,
        loop: Loop,
        pids: Callable[[], Mapping[str, int]],
        rss_bytes: Callable[[int], int],
        memory: Callable[[], memory_leak.Memory],
        recycle: Callable[[str, str], bool],
    ) -> None:
        self._loop = loop
        self._pids = pids
        self._rss_bytes = rss_bytes
        self._memory = memory
        self._recycle = recycle
        self._known: dict[str, memory_leak.Resident] = {}

    def start(self, now_s: Callable[[], float]) -> None:
        """Begin to look; for the life of the loop."""

        def again() -> None:
            self._loop.call_later(LOOK_S, again)
            self.look(int(now_s()))

        self._loop.call_later(LOOK_S, again)

    def look(self, now_s: int) -> None:
        """Take one reading of each worker and replace those that leak."""
        pids = self._pids()
        self._known = {model: known for model, known in self._known.items() if model in pids}
        for model, pid in pids.items():
            known = memory_leak.read(self._known.get(model, memory_leak.Resident()), pid, now_s, self._rss_bytes(pid))
            self._known[model] = known
            reason = why(known, self._memory())
            if reason and self._recycle(model, reason):
                del self._known[model]
