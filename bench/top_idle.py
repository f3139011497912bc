"""What `edgectl top` costs while nothing happens: processor and memory, next to `top --plain` and to `edgectl fleet summary` every 5 s.

All three run at the same time on terminals of 120×40, at one server with devices that stay as they are; the third is what `watch -n 5`
would run. Goal: the screen takes no more of a processor than either. Starts are not counted.
`cpu_share` is of one processor, with the processes that were waited for; `rss_bytes` of the loop is the most that one command took. Prints
one JSON object.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import platform
import pty
import select
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from bench.agent_memory import memory_of
from tests.server.dashboard.fleet import ORT, Fleet
from tests.server.dashboard.serving import served

from edgefleet_server.access.model import Role

DEVICES = 8
EVERY_S = 5
COLUMNS, ROWS = 120, 40
GOAL = 1.0
SCREEN, PLAIN, LOOP = "edgectl top", "edgectl top --plain", f"edgectl fleet summary, every {EVERY_S} s"
EDGECTL = Path(sys.executable).with_name("edgectl")
_TICKS = os.sysconf("SC_CLK_TCK")


class OnTerminal:
    """A command on a terminal whose output is read and dropped."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        self._process = subprocess.Popen(
            command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True
        )
        os.close(theirs)
        self.written = 0
        self._over = threading.Event()
        self._reading = threading.Thread(target=self._read, daemon=True)
        self._reading.start()

    def _read(self) -> None:
        while not self._over.is_set():
            if select.select([self._ours], [], [], 0.2)[0]:
                try:
                    self.written += len(os.read(self._ours, 65536))
                except OSError:  # how Linux tells that the other end is closed
                    return

    @property
    def pid(self) -> int:
        """Return its process id."""
        return self._process.pid

    def cpu_s(self) -> float:
        """Return the seconds of a processor so far: of its threads to the nanosecond, and of children that have ended."""
        threads = Path(f"/proc/{self.pid}/task").iterdir()
        own_ns = sum(int((one / "schedstat").read_text().split()[0]) for one in threads)
        fields = Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return own_ns / 1e9 + (int(fields[13]) + int(fields[14])) / _TICKS

    def end(self) -> None:
        """End it, with what it started."""
        self._over.set()
        os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()
        self._reading.join()
        os.close(self._ours)


def measured(environment: dict[str, str], settle_s: float, seconds: float) -> dict[str, dict[str, Any]]:
    """Return the figures of each command, by its name."""
    loop = f"while :; do '{EDGECTL}' fleet summary; sleep {EVERY_S}; done"
    commands = {SCREEN: [str(EDGECTL), "top"], PLAIN: [str(EDGECTL), "top", "--plain"], LOOP: ["/bin/sh", "-c", loop]}
    running = {name: OnTerminal(command, environment) for name, command in commands.items()}
    try:
        time.sleep(settle_s)
        before = {name: (one.cpu_s(), one.written, time.monotonic()) for name, one in running.items()}
        time.sleep(seconds)
        figures = {}
        for name, one in running.items():
            cpu_s, written, at = before[name]
            figures[name] = {
                "cpu_share": round((one.cpu_s() - cpu_s) / (time.monotonic() - at), 5),
                "written_bytes": one.written - written,
                "rss_bytes": once_bytes(environment) if name == LOOP else memory_of(one.pid)["rss_bytes"],
            }
        return figures
    finally:
        for one in running.values():
            one.end()


def once_bytes(environment: dict[str, str]) -> int:
    """Return the most memory that one `edgectl fleet summary` takes, as far as looks every few milliseconds see it."""
    most = 0
    process = subprocess.Popen([EDGECTL, "fleet", "summary"], env=environment, stdout=subprocess.DEVNULL)
    while process.poll() is None:
        with suppress(OSError, KeyError):  # it has ended meanwhile
            most = max(most, memory_of(process.pid)["rss_bytes"])
        time.sleep(0.005)
    return most


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=30.0, help="how long it is measured")
    parser.add_argument("--settle", type=float, default=6.0, help="seconds before that, for starts")
    chosen = parser.parse_args()
    seconds = chosen.seconds
    with tempfile.TemporaryDirectory() as folder:
        fleet = Fleet(Path(folder) / "server")
        fleet.release("digits@1.0.0", ORT)
        for number in range(DEVICES):
            fleet.device(f"cam-{number}")
        with served(fleet.house.own_app()) as url:
            environment = {
                **os.environ,
                "EDGECTL_SERVER": url,
                "EDGECTL_TOKEN": fleet.house.token(Role.VIEWER),
                "EDGECTL_CONFIG": f"{folder}/edgectl.json",
                "TERM": "xterm-256color",
            }
            figures = measured(environment, chosen.settle, seconds)
        fleet.close()
    screen = figures[SCREEN]["cpu_share"]
    others = {name: figures[name]["cpu_share"] for name in (PLAIN, LOOP)}
    ratios = {name: round(screen / share, 3) if share else None for name, share in others.items()}
    result = {
        "bench": "top_idle",
        "seconds": seconds,
        "devices": DEVICES,
        "commands": figures,
        "cpu_ratio_to": ratios,
        "goal_cpu_ratio": GOAL,
        "ok": all(one is not None and one <= GOAL for one in ratios.values()),
        "machine": {"cpus": os.cpu_count(), "load": round(os.getloadavg()[0], 1), "python": platform.python_version()},
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
