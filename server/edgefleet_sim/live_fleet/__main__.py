"""`python -m edgefleet_sim.live_fleet`: a part of a simulated fleet as a process. The first line of stdin is what to do, as JSON.

`{"enrol": {"folder", "token", "count", "per_s"}}`: enrols devices into a folder; a line `{"enrolled": N}` now and then, and at the end.
`{"drive": {"folder", "first", "count", "profile", "interval_s", "seed"}}`: is those devices. Then a line of stdin is a command:
`{"want": N, "per_s": R}`, `{"cut": true}`, `{"quiet": true}`, `{"states": true}`, `{"leave": true}`; each second a line says what was
counted (`Figures`), after `states` with the last state of each device (`Driver.last_states`).
An error is `{"error": {"code", "message", "why", "next"}}`. It ends with its stdin.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import resource
import sys
import time
from pathlib import Path
from typing import Any, Final

import msgspec

from edgefleet_agent.clock import SystemClock
from edgefleet_protocol.errors import EdgefleetError
from edgefleet_protocol.ids import TenantId
from edgefleet_protocol.topics import Topics
from edgefleet_sim.live_fleet.connection import way_to
from edgefleet_sim.live_fleet.driver import Driver
from edgefleet_sim.live_fleet.identities import IdentityFolder, enrol, numbered
from edgefleet_sim.live_fleet.link_profiles import behaviour_of
from edgefleet_sim.live_fleet.wire_device import SimulatedDevice

EVERY_S: Final = 1.0
URGENT_S: Final = 60
CALM_S: Final = 1_200
SPARE_FILES: Final = 256


class NoIdentitiesError(EdgefleetError):
    """The folder holds fewer identities than devices were asked for."""

    code = "sim.no_identities"


class EnrolPlan(msgspec.Struct, frozen=True):
    """What to enrol."""

    folder: str
    token: str
    count: int
    per_s: float = 20.0


class DrivePlan(msgspec.Struct, frozen=True):
    """Which devices to be. interval_s: of telemetry."""

    folder: str
    first: int
    count: int
    profile: str = "steady"
    interval_s: float = 900.0
    seed: int = 0


class Request(msgspec.Struct, frozen=True):
    """One of both."""

    enrol: EnrolPlan | None = None
    drive: DrivePlan | None = None


def main() -> int:
    """Do what the first line asks for."""
    try:
        request = msgspec.json.decode(_first_line(), type=Request)
        if request.enrol is not None:
            _enrol(request.enrol)
        elif request.drive is not None:
            asyncio.run(_drive(request.drive))
    except EdgefleetError as error:
        _say({"error": {"code": error.code, "message": error.message, "why": error.reason(), "next": error.next_step}})
        return 1
    except (OSError, msgspec.MsgspecError) as error:
        _say({"error": {"code": "sim.failed", "message": str(error), "why": type(error).__name__, "next": ""}})
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _first_line() -> bytes:
    """Return the first line of stdin and read nothing beyond it: commands come on the same pipe."""
    with os.fdopen(os.dup(sys.stdin.fileno()), "rb", buffering=0) as stdin:
        return stdin.readline()


def _enrol(plan: EnrolPlan) -> None:
    said_s = 0.0

    def done(count: int) -> None:
        nonlocal said_s
        if count >= plan.count or time.monotonic() - said_s >= EVERY_S:
            said_s = time.monotonic()
            _say({"enrolled": count})

    enrol(IdentityFolder(Path(plan.folder)), plan.token, plan.count, plan.per_s, done)


async def _drive(plan: DrivePlan) -> None:
    folder = IdentityFolder(Path(plan.folder))
    fleet, names = folder.fleet(), folder.devices()
    if fleet is None or len(names) < plan.first + plan.count:
        raise NoIdentitiesError(
            f"{folder.folder} holds {len(names)} identities, not {plan.first + plan.count}",
            next_step="enrol more devices",
        )
    _allow_files(plan.count + SPARE_FILES)
    loop, stopped = asyncio.get_running_loop(), asyncio.Event()
    way = way_to(
        loop, fleet.host, fleet.port, ca_file=folder.ca_file, topics=Topics(TenantId(fleet.tenant)), certificate_of=folder.certificate_of,
        keepalive_s=URGENT_S if plan.interval_s <= URGENT_S else CALM_S, is_v5=fleet.mqtt == "5",
    )  # fmt: skip
    draw = random.Random(f"{plan.seed}/{plan.first}")
    chosen = numbered(names, plan.first, plan.count)
    devices = [SimulatedDevice(number, name, behaviour_of(plan.profile, number), draw) for number, name in chosen]
    driver = Driver(devices, way, plan.interval_s, draw, SystemClock())
    commands = _Commands(driver, stopped)
    loop.add_reader(sys.stdin.fileno(), commands.readable)
    said = asyncio.create_task(_report(driver, commands, stopped))
    await driver.run(stopped)
    await said


async def _report(driver: Driver, commands: _Commands, stopped: asyncio.Event) -> None:
    while True:
        figures = driver.meter.figures
        used = resource.getrusage(resource.RUSAGE_SELF)
        figures.cpu_s = round(used.ru_utime + used.ru_stime, 3)
        figures.rss_bytes = _rss_bytes()
        _say(driver.line() | ({"states": driver.last_states()} if commands.wants_states else {}))
        if stopped.is_set():
            return
        await asyncio.sleep(EVERY_S)


class _Commands:
    """Reads commands without blocking."""

    def __init__(self, driver: Driver, stopped: asyncio.Event) -> None:
        self._driver, self._stopped = driver, stopped
        self._rest = b""
        self.wants_states = False

    def readable(self) -> None:
        data = os.read(sys.stdin.fileno(), 65_536)
        if not data:
            self._leave()
            return
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._do(json.loads(line))

    def _do(self, command: dict[str, Any]) -> None:
        """Do all that a line asks for."""
        if "want" in command:
            self._driver.want(int(command["want"]), float(command.get("per_s", 100.0)))
        if "cut" in command:
            self._driver.cut()
        if "quiet" in command:
            self._driver.quiet()
        if "states" in command:
            self.wants_states = bool(command["states"])
        if "leave" in command:
            self._leave()

    def _leave(self) -> None:
        if not self._stopped.is_set():
            self._driver.leave()
            self._stopped.set()


def _allow_files(wanted: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted:
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard)
        )


def _rss_bytes() -> int:
    try:
        pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return pages * os.sysconf("SC_PAGE_SIZE")


def _say(line: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(line, separators=(",", ":")) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
