"""Nurseries of conversions that tests run in their own process: one is given to the next conversion, instead of ended with its own.

A nursery holds libraries and no model: each step runs in a process of its own, forked from it. So conversions that share one differ in
nothing from conversions with their own, but that a third of the processor time of a small one is not spent again. A nursery is
given on only where a new one would be the same: same environment, working folder and standard error, and no step in it.
"""

from __future__ import annotations

import os
import select
import subprocess
from pathlib import Path
from typing import Final

from edgefleet_converters.sandbox import end_nursery, start_nursery

AT_MOST: Final = 4
Process = subprocess.Popen[bytes]
Key = tuple[object, ...]


class KeptNurseries:
    """Idle nurseries of this process, the one that was kept last at the end. Its two methods replace those of `sandbox`."""

    def __init__(self) -> None:
        self._idle: list[tuple[Key, Process]] = []
        self._keys: dict[int, Key] = {}

    def start(self, kind: str) -> Process:
        """Return an idle nursery that is as a new one would be, or a new one."""
        key = _key(kind)
        for at, (found, process) in enumerate(self._idle):
            if found == key:
                del self._idle[at]
                if _is_idle(process):
                    break
                end_nursery(process)
        else:
            process = start_nursery(kind)
        self._keys[process.pid] = key
        return process

    def end(self, process: Process) -> None:
        """Keep a nursery for the next conversion; end it where something is wrong with it, and the oldest one above the limit."""
        key = self._keys.pop(process.pid, None)
        if key is None or not _is_idle(process):
            end_nursery(process)
            return
        self._idle.append((key, process))
        if len(self._idle) > AT_MOST:
            end_nursery(self._idle.pop(0)[1])

    def clear(self) -> None:
        """End them all."""
        while self._idle:
            end_nursery(self._idle.pop()[1])


def _key(kind: str) -> Key:
    """Return what a nursery gets from the process that starts it."""
    environment = frozenset(item for item in os.environ.items() if item[0] != "PYTEST_CURRENT_TEST")
    errors = os.fstat(2)
    return kind, environment, Path.cwd(), errors.st_dev, errors.st_ino


def _is_idle(process: Process) -> bool:
    """Return whether a nursery lives, has no step and has nothing left to say."""
    assert process.stdout is not None
    if process.poll() is not None or select.select([process.stdout], [], [], 0)[0]:
        return False
    try:
        return not Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text("ascii")
    except OSError:
        return False
