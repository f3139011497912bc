"""Limits under many engines: rollouts of one fleet, ticked by replicas in threads of their own, each with its own connections.

`./dev soak rollout-limits [--n LEASES] [--seed S]`. PostgreSQL, where replicas really run at once; rules and tables are the shipped
ones. Every rollout has `concurrent_downloads` and `per_site`, and devices share sites across rollouts. The auditor is in the database
(`lease_audit`): it counts when leases are taken, and once more after each round. Counted are leases taken (n of them at least), how
often the count was exactly at a limit, and breaches: 0, or the soak fails.
"""

from __future__ import annotations

import random
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from edgefleet_protocol.ids import DeviceId
from edgefleet_server.db.database import Database
from edgefleet_server.rollout.controller.controller import RolloutController
from edgefleet_server.rollout.state_machines import IN_FLIGHT
from edgefleet_server.rollout.store import assignments, throttle
from edgefleet_server.rollout.store import rollouts as rollout_store
from tests.server.fleet.house import House
from tests.server.rollout import lease_audit
from tests.server.rollout.fleet_sim import SimDevice, World, make_world, stages
from tests.server.rollout.lease_audit import Held
from tests.support.postgres import shared_server

ROLLOUTS: Final = 3
DEVICES: Final = 6
SITES: Final = 2
MAX_ROUNDS: Final = 400
HELD: Final = Held(downloads=5, per_site=3)


@dataclass
class Figures:
    """What the auditor wrote down, over all fleets. taken: leases; looks: counts; at_limit: counts at a full limit."""

    taken: int = 0
    looks: int = 0
    at_limit: int = 0
    breached: int = 0
    finished: int = 0
    fleets: int = 0


def main(n: int, seed: int) -> dict[str, Any]:
    """Run fleets until `n` leases were taken; return the figures. Without PostgreSQL it is not ok, and says so."""
    if shared_server() is None:
        return {"ok": False, "reason": "PostgreSQL is not installed"}
    chance = random.Random(seed)
    figures = Figures()
    while figures.taken < n:
        run_fleet(chance, figures, replicas=3)
    is_ok = figures.breached == 0 and figures.finished == ROLLOUTS * figures.fleets and figures.at_limit > 0
    return {
        "ok": is_ok,
        "leases_taken": figures.taken,
        "limits_breached": figures.breached,
        "looks": figures.looks,
        "looks_at_a_limit": figures.at_limit,
        "rollouts_finished": figures.finished,
        "fleets": figures.fleets,
        "replicas": 3,
    }


def run_fleet(chance: random.Random, figures: Figures, *, replicas: int, rounds: int = MAX_ROUNDS) -> None:
    """Bring a release to one fleet by rollouts that share sites, with replicas that tick at once; add what was counted."""
    with _database() as url, tempfile.TemporaryDirectory(prefix="edgefleet-limits-") as folder:
        world = make_world(url, Path(folder) / "a")
        others = [_other(world, url, f"replica-{index}") for index in range(replicas)]
        try:
            rollouts = _start(world)
            taken: set[tuple[str, DeviceId, int]] = set()
            for _ in range(rounds):
                chance.shuffle(others)
                _tick_all(others, rollouts, world)
                lease_audit.look(world.house.db)
                taken |= _taken(world.house, rollouts)
                if all(world.view(one).state == "finished" for one in rollouts):
                    break
                _some_go_on(world, rollouts, chance)
                world.clock.turn(seconds=chance.choice((1, 2, 5)))
            figures.finished += sum(world.view(one).state == "finished" for one in rollouts)
            figures.fleets += 1
            figures.taken += len(taken)
            counts = lease_audit.read(world.house.db, HELD)
            figures.looks += counts.looks
            figures.at_limit += counts.at_limit
            figures.breached += counts.breached
        finally:
            for _, db in others:
                db.dispose()
            world.house.db.dispose()


@contextmanager
def _database() -> Iterator[str]:
    server = shared_server()
    assert server is not None
    url = server.new_database()
    try:
        yield url
    finally:
        server.drop_database(url)


def _other(world: World, url: str, owner: str) -> tuple[RolloutController, Database]:
    """Return one more engine; replicas share nothing but the database (and the folder of keys)."""
    house = House(url, world.house.folder, world.clock)
    made = World(house)
    return RolloutController(house.db, house.fleet, made.service, world.clock, owner), house.db


def _start(world: World) -> list[str]:
    for line in range(ROLLOUTS):
        for site in range(SITES):
            world.enrol(DEVICES // SITES, line=f"l{line}", site=f"s{site}")
    world.settle("1.0.0")
    world.release("1.1.0")
    lease_audit.install(world.house.db)
    return [
        world.create(selector=f"line=l{line}", stages=stages("100%"), limits=HELD.limits) for line in range(ROLLOUTS)
    ]


def _tick_all(engines: list[tuple[RolloutController, Database]], rollouts: list[str], world: World) -> None:
    """Let each replica tick another rollout at the same moment: its claim, then its tick, as the engine does both."""
    at_once = threading.Barrier(len(engines))

    def tick(engine: RolloutController, db: Database, mine: str) -> None:
        with db.session() as session:
            others = [one for one in rollouts if one != mine]
            owner, now = f"replica of {mine}", world.clock.now()
            claimed = rollout_store.lease(
                rollout_store.lock_due(session, owner, now, but=others, woken_but=()), owner, now
            )
        at_once.wait()
        for rollout, fence in claimed:
            engine._attempt(rollout, fence)  # what `tick` does with what it claimed, one after the other

    threads = [threading.Thread(target=tick, args=(*one, mine)) for one, mine in zip(engines, rollouts, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _some_go_on(world: World, rollouts: list[str], chance: random.Random) -> None:
    """Let some of the devices that have something to do go on by some steps; now and then one goes away or comes back."""
    with world.house.db.read() as session:
        assigned = [one for rollout in rollouts for one in assignments.assignments(session, rollout)]
    busy: list[SimDevice] = [world.devices[one.device] for one in assigned if one.state in IN_FLIGHT]
    for one in [one for one in world.devices.values() if one.is_away]:
        if chance.random() < 0.3:
            one.is_away = False
            world.presence(one, on=True)
    if busy and chance.random() < 0.1:
        gone = chance.choice(busy)
        gone.is_away = True
        world.presence(gone, on=False)
    for one in busy:
        if one.speaks and chance.random() < 0.8:
            signed = world.fleet.documents.of_device(one.id)
            if signed is not None and signed.gen > one.gen:
                one.take_desired(signed.envelope)
            for _ in range(chance.choice((1, 3, 5))):
                one.step()
            world.report(one)


def _taken(house: House, rollouts: list[str]) -> set[tuple[str, DeviceId, int]]:
    """Return the leases that are held, by the attempt that they were taken for."""
    with house.db.read() as session:
        attempts = {(r, a.device): a.attempt for r in rollouts for a in assignments.assignments(session, r)}
        held = [lease for r in rollouts for lease in throttle.leases_of(session, r)]
        return {(one.rollout, one.device, attempts[one.rollout, one.device]) for one in held}
