"""One replica of the engine as a process: `python -m tests.crash.replica URL FOLDER OWNER`. It runs until it is killed, or its stdin ends.

It is the shipped engine thread (`ticking.Ticker`) on the shipped services; only the listeners of a whole server are left out, so
that three of them start in a moment and `kill -9` hits nothing but the engine. Its owner name, as in a server, is its own.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from edgefleet_server.clock import SystemClock
from edgefleet_server.ticking import Ticker
from tests.server.fleet.apps import parts_of
from tests.server.fleet.house import House

TICK_S = 0.5


def main() -> None:
    """Tick for ever."""
    url, folder, owner = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
    logging.basicConfig(level=logging.WARNING)
    house = House(url, folder, SystemClock(), engine_tick_s=TICK_S, instance=owner)
    Ticker(parts_of(house)).start()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.read()  # whoever started it is gone when this ends


if __name__ == "__main__":
    main()
