"""`run/server.json`: what a running server says of itself, for `edgectl server up` and `down`, the probe of the images, and scripts.

A server that is killed leaves it behind, and its process number goes to another process some day. So it also says when its process began,
as `BOOT-ID:CLOCK-TICKS` of `/proc`; a reader that compares both ends nobody else's process. Processes that share a data folder share the
file: the last one that was started is in it.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

NAME: Final = "server.json"
_BEGAN: Final = 19
"""Place of `starttime` in `/proc/PID/stat`, counted after the name of the program."""


def process_mark(pid: int) -> str:
    """Return what no other process of this number has, "" where there is no such process."""
    try:
        began = Path(f"/proc/{pid}/stat").read_text("utf-8").rsplit(")", 1)[1].split()[_BEGAN]
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text('ascii').strip()}:{began}"
    except (OSError, IndexError):
        return ""


class RunFile:
    """The file of one data folder, as this process writes it."""

    def __init__(self, run_dir: Path) -> None:
        """Remember where it is."""
        self._path = run_dir / NAME

    def write(self, document: Mapping[str, Any]) -> None:
        """Write it, with this process's number. Raises OSError."""
        own = {**document, "pid": os.getpid(), "process": process_mark(os.getpid())}
        fresh = self._path.with_suffix(".json.new")
        fresh.write_text(json.dumps(own), encoding="utf-8")
        fresh.replace(self._path)

    def remove(self) -> None:
        """Remove it unless another process has written it since."""
        if self._said("pid") == os.getpid():
            self._path.unlink(missing_ok=True)

    def drop_stale(self) -> None:
        """Remove one whose process is gone."""
        pid = self._said("pid")
        if pid is not None and (not isinstance(pid, int) or process_mark(pid) != self._said("process")):
            self._path.unlink(missing_ok=True)

    def _said(self, name: str) -> Any:
        try:
            found = json.loads(self._path.read_text("utf-8"))
        except (OSError, ValueError):
            return None
        return found.get(name) if isinstance(found, dict) else None
