"""Three replicas of the engine on one PostgreSQL; one is killed every five seconds, and the database crashes once in between.

Rollouts of good and of bad releases go out one after the other to devices that take signed documents and answer with real reports.
Every five seconds, once all three are there, one gets `kill -9` and is started again: one drawn at random, and every sixth time one
that has a rollout's lease. Half-way the database is stopped as a crash would stop it. When a rollout has ended, `fleet_sim_audit`
compares the event log with the tables and draws every decision anew: no transition may be lost or doubled, no stage skipped, no device
beyond its cut. Every rollout has limits and a rate: `lease_audit` counts in the database how many leases of downloads there are at
once, and no offer may come sooner than the rate lets it. After each kill the open rollout must be claimed again, which raises its
fence, within 15 s, whether the killed replica held its lease or not, although the clocks of their machines are a minute ahead, right,
and a minute behind.
`main(n, seed)` does so for `n` seconds.
"""

from __future__ import annotations

import contextlib
import os
import random
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError
from sqlmodel import col

from edgefleet_protocol.errors import EdgefleetError
from edgefleet_protocol.messages import Phase
from edgefleet_server.clock import SystemClock
from edgefleet_server.rollout.store.tables import Rollout
from edgefleet_terms.rollout_states import ROLLOUT_FINAL
from tests.server.fleet.house import House
from tests.server.rollout import lease_audit
from tests.server.rollout.fleet_sim import INSTALL, MODEL, Habit, World, stages
from tests.server.rollout.fleet_sim_audit import audit
from tests.server.rollout.lease_audit import Held
from tests.support.forked_servers import ForkedServer
from tests.support.postgres import PostgresServer, own_server

SITES: Final = 3
DEVICES: Final = 12
REPLICAS: Final = 3
KILL_EVERY_S: Final = 5.0
FAILOVER_MOST_S: Final = 15.0
STEP_S: Final = 0.1
HUNTED: Final = 6
"""Whoever killed each look would let nothing happen: what a look leaves behind is locked for 12 s."""
HUNT_S: Final = 3.0
START_S: Final = 120.0
ROLLOUT_S: Final = 240.0
AHEAD_S: Final = (60.0, 0.0, -60.0)
"""By how much the clocks of the replicas' machines are ahead."""
HELD: Final = Held(downloads=2, per_site=1, per_min=120)
"""Both limits are in the way of twelve devices at three sites, and mostly the rate; a rollout still ends within seconds."""
HURRIED: Final = replace(HELD, per_min=12_000)
"""Only the limits are in the way: at the lower rate most downloads end before the next one may begin."""
_OVER: Final = frozenset(state.value for state in ROLLOUT_FINAL)


@dataclass
class Figures:
    """What was done and seen."""

    kills: int = 0
    kills_with_lease: int = 0
    restarts: int = 0
    rollouts: int = 0
    transitions: int = 0
    failovers_s: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


class Replicas:
    """The replica processes. Each start has an owner name of its own, as in a server."""

    def __init__(self, url: str, folder: Path) -> None:
        self._url, self._folder = url, folder
        self._started = 0
        self.running: list[tuple[str, ForkedServer]] = []
        self._ready: set[str] = set()

    def start(self) -> None:
        """Start one more."""
        self._started += 1
        owner = f"replica-{self._started}"
        ahead_s = AHEAD_S[self._started % len(AHEAD_S)]
        arguments = [self._url, str(self._folder), owner, str(ahead_s), str(os.getpid())]
        self._log(owner).touch()  # it is read before the replica has opened it
        self.running.append((owner, ForkedServer(arguments, self._log(owner), module="tests.crash.replica")))

    def _log(self, owner: str) -> Path:
        return self._folder / f"{owner}.log"

    def wait(self) -> None:
        """Wait until all have said that they tick. Raises RuntimeError when one ended instead."""
        while not self.are_all_there():
            time.sleep(STEP_S)

    def are_all_there(self) -> bool:
        """Whether each has said that it ticks: a start takes seconds on a busy machine, and there are to be three to kill one of.

        Raises RuntimeError when one ended instead.
        """
        for owner, process in self.running:
            if owner not in self._ready and "ready\n" in self._log(owner).read_text():
                self._ready.add(owner)
            elif owner not in self._ready and process.poll() is not None:
                raise RuntimeError(f"{owner} did not start: {self._log(owner).read_text()[-2000:]}")
        return all(owner in self._ready for owner, _ in self.running)

    def kill(self, place: int) -> str:
        """kill -9 one; return its owner name."""
        owner, process = self.running.pop(place)
        process.kill()
        process.wait()
        return owner

    def close(self) -> None:
        """Kill all."""
        while self.running:
            self.kill(0)


class Site:
    """The fleet, its rollouts and the replicas, seen from outside."""

    def __init__(self, server: PostgresServer, folder: Path, rng: random.Random) -> None:
        self._server = server
        self._rng = rng
        self.url = server.new_database()
        self.world = World(House(self.url, folder, SystemClock()))
        self.figures = Figures()
        self.replicas = Replicas(self.url, folder)
        self._version = 0
        self._rollout = ""
        self._is_bad = False
        self._held = HELD
        self._created_s = 0.0
        self._base = "1.0.0"
        self._waits: dict[str, tuple[float, int]] = {}

    def begin(self) -> None:
        """Bring the first release to every device and start the replicas."""
        for site in range(SITES):
            self.world.enrol(DEVICES // SITES, site=f"s{site}")
        self.world.settle(self._base)
        lease_audit.install(self.world.house.db)
        for _ in range(REPLICAS):
            self.replicas.start()
        self.replicas.wait()

    def run(self, seconds: float) -> None:
        """Let rollouts go out for so long, then let the last one end."""
        began = time.monotonic()
        kill_at, restart_at = began + KILL_EVERY_S, began + seconds / 2
        while time.monotonic() - began < seconds or self._rollout:
            now = time.monotonic()
            if now >= kill_at and now - began < seconds and self.replicas.are_all_there():
                self._kill()
                kill_at = now + KILL_EVERY_S
            if restart_at <= now:
                self._server.restart()
                self.figures.restarts += 1
                restart_at = began + 1e9
            with contextlib.suppress(SQLAlchemyError, EdgefleetError):  # the database is away for a moment
                self._go_on(may_begin=now - began < seconds)
            time.sleep(STEP_S)

    def _kill(self) -> None:
        """Kill one replica: one of them at random, or every HUNTED-th time one in the middle of its look."""
        place = self._rng.randrange(len(self.replicas.running))
        if self.figures.kills % HUNTED == 1:
            place = self._busy(place)
        owner = self.replicas.kill(place)
        self.figures.kills += 1
        row = self._row()
        if row is not None and row.state not in _OVER:
            # a kill while it waits gives nobody more time
            self._waits.setdefault(row.id, (time.monotonic(), row.fence))
            self.figures.kills_with_lease += row.lease_owner == owner and row.lease_until is not None
        self.replicas.start()

    def _busy(self, otherwise: int) -> int:
        """Return the place of a replica that has just taken the open rollout's lease; another one when none does within HUNT_S."""
        owners = [owner for owner, _ in self.replicas.running]
        until = time.monotonic() + HUNT_S
        while time.monotonic() < until and (row := self._row()) is not None and row.state not in _OVER:
            if row.lease_until is not None and row.lease_owner in owners:
                return owners.index(row.lease_owner)
        return otherwise

    def _row(self) -> Rollout | None:
        with contextlib.suppress(SQLAlchemyError), self.world.house.db.read() as session:
            found = session.execute(select(Rollout).where(col(Rollout.id) == self._rollout)).scalars().first()
            if found is not None:
                session.expunge(found)
            return found
        return None

    def _go_on(self, *, may_begin: bool) -> None:
        self.world.step()
        lease_audit.look(self.world.house.db)
        row = self._row()
        if row is not None:
            self._look_at_failover(row)
        if row is not None and row.state in _OVER:
            self._check(row)
            self._rollout = ""
        elif row is not None and time.monotonic() - self._created_s > ROLLOUT_S:
            self.figures.failures.append(f"{row.id} did not end within {ROLLOUT_S:.0f} s: {row.state} {row.reason}")
            self._rollout = ""
        elif not self._rollout and may_begin:
            self._create()

    def _look_at_failover(self, row: Rollout) -> None:
        waiting = self._waits.get(row.id)
        if waiting is not None and row.fence > waiting[1]:
            self.figures.failovers_s.append(round(time.monotonic() - waiting[0], 2))
            del self._waits[row.id]

    def _create(self) -> None:
        self._version += 1
        version = f"2.{self._version}.0"
        self._is_bad = self._version % 3 == 0
        self.world.release(version)
        crash = Habit(fails_at=Phase.PROBATION, reason="it crashed in its trial")
        for device in self.world.devices.values():
            device.habits[version] = crash if self._is_bad else Habit()
        self._target = version
        self._held = HURRIED if self._version % 2 else HELD
        paced = [{**stage, "rate": self._held.rate} for stage in stages(2, "50%", "100%", soak="1s")]
        self._rollout = self.world.create(f"{MODEL}@{version}", stages=paced, limits=self._held.limits)
        self._created_s = time.monotonic()

    def _check(self, row: Rollout) -> None:
        """Compare log and tables, and wait until the devices run what the outcome says."""
        self.figures.rollouts += 1
        expected = "rolled_back" if self._is_bad else "finished"
        problems = [
            *audit(self.world.house.db, row.id),
            *lease_audit.too_soon(self.world.house.db, row.id, self._held),
        ]
        if row.state != expected:
            problems.append(f"ended {row.state}, expected {expected}: {row.reason}")
        self._base = self._base if self._is_bad else self._target
        for _ in range(len(INSTALL) + 4):
            self.world.step()
        for device in self.world.devices.values():
            if device.running != self._base:
                problems.append(f"{device.id} runs {device.running}, expected {self._base}")
            if device.gens != sorted(device.gens):
                problems.append(f"{device.id} was sent gens that fall: {device.gens[-20:]}")
        self.figures.transitions += len(self.world.events(row.id))
        self.figures.failures += [f"{row.id}: {problem}" for problem in problems]

    def close(self) -> None:
        """Stop everything."""
        self.replicas.close()
        self.world.house.db.dispose()


def main(n: int, seed: int) -> dict[str, Any]:
    """Kill replicas for `n` seconds; ok when no transition was lost or doubled, no limit breached, every failover in time."""
    rng = random.Random(seed)
    with own_server() as server, tempfile.TemporaryDirectory(prefix="ef-replicas-") as folder:
        site = Site(server, Path(folder), rng)
        try:
            site.begin()
            site.run(n)
            counts = lease_audit.read(site.world.house.db, HELD)
        finally:
            site.close()
    found = site.figures
    slowest_s = max(found.failovers_s, default=0.0)
    is_ok = not found.failures and slowest_s <= FAILOVER_MOST_S and found.rollouts > 0 and found.restarts == 1
    is_held = counts.breached == 0 and counts.at_limit > 0
    return {
        "ok": is_ok and is_held,
        "seconds": n,
        "replicas": REPLICAS,
        "kills": found.kills,
        "kills_with_lease": found.kills_with_lease,
        "database_restarts": found.restarts,
        "rollouts": found.rollouts,
        "transitions": found.transitions,
        "failover_s_max": slowest_s,
        "limits_breached": counts.breached,
        "looks": counts.looks,
        "looks_at_a_limit": counts.at_limit,
        "downloads_at_once_max": counts.most,
        "failures": found.failures[:20],
    }
