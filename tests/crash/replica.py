"""One replica of the engine as a process: `tests.crash.replica URL FOLDER OWNER AHEAD_S PID`, until it is killed or that process ends.

It is the shipped engine thread (`ticking.Ticker`) on the shipped parts; only the listeners of a whole server are left out, so
that three of them start in a moment and `kill -9` hits nothing but the engine. Its owner name, as in a server, is its own, and the
clock of its machine is ahead of the others' by AHEAD_S.
"""

from __future__ import annotations

import logging
import sys
import time
from datetime import datetime, timedelta
from pathlib import Path

from edgefleet_server.clock import SystemClock
from edgefleet_server.composition.container import build_parts
from edgefleet_server.process.lifecycle.engine_work import build_engine
from edgefleet_server.settings import load_settings

TICK_S = 0.5
LOOK_S = 1.0
"""Between two looks whether those who started it are still there."""


class ClockAhead(SystemClock):
    """The clock of a machine that nobody sets."""

    def __init__(self, ahead_s: float) -> None:
        self.ahead_s = ahead_s

    def now(self) -> datetime:
        """Return what that machine takes for the time."""
        return super().now() + timedelta(seconds=self.ahead_s)


def main(arguments: list[str]) -> int:
    """Tick for ever."""
    url, folder_name, owner, ahead, starter = arguments
    folder, ahead_s = Path(folder_name), float(ahead)
    logging.basicConfig(level=logging.WARNING)
    settings = load_settings(folder, database_url=url, device_port=8443, engine_tick_s=TICK_S, instance=owner)
    build_engine(build_parts(settings, ClockAhead(ahead_s))).start()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while Path("/proc", starter).exists():
        time.sleep(LOOK_S)
    return 0
