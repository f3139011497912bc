"""The files of the agent's own code: pip and dpkg replace them while agentd runs.

1. agentd stays the code that it was started with, its children would be the code of now, or not start at all. What such a child says or
   how it ends must not count for or against a model. So the loop looks here before each round, and nothing is started or judged between.
2. The agent then starts again in place. It waits until the files rest, or it would start from half of them; its workers serve meanwhile.
"""

import logging
import time
from collections.abc import Callable
from pathlib import Path

import edgefleet_agent
from edgefleet_agent.core.systemd import notify

REST_S = 2.0
MAX_LOOKS = 60

log = logging.getLogger(__name__)
_Stamp = tuple[int, int, int]


class CodeFiles:
    """What is installed as the agent. file: one that every installation replaces; its folder's neighbours belong to it."""

    def __init__(self, file: Path = Path(edgefleet_agent.__file__)) -> None:
        self._file = file
        self._stamp = _stamp(file)

    def are_replaced(self) -> bool:
        """Whether they are others than at the start, or are not there. One look at a file."""
        return _stamp(self._file) != self._stamp

    def wait(self, is_over: Callable[[], bool], rest_s: float = REST_S) -> None:
        """Block until nothing has changed for `rest_s`, or `is_over`, or MAX_LOOKS. Feeds systemd's watchdog."""
        log.warning("the files of the agent were replaced: it starts again with the new ones")
        before: dict[str, _Stamp | None] = {}
        for _ in range(MAX_LOOKS):
            now = self._all()
            if is_over() or (now and now == before):
                return
            before = now
            notify("WATCHDOG=1")
            time.sleep(rest_s)

    def _all(self) -> dict[str, _Stamp | None]:
        """Return the stamps of all files, nothing while the first one or a folder is not there."""
        try:
            found = {str(file): _stamp(file) for file in self._file.parent.parent.glob("edgefleet_*/**/*.py")}
        except OSError:  # a folder went while it was listed
            return {}
        return found if _stamp(self._file) is not None else {}


def _stamp(file: Path) -> _Stamp | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size
