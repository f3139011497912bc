"""Limits with several engines on PostgreSQL: real rows, real locks, engines at once."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from edgefleet_protocol.ids import DeviceId, RolloutId
from edgefleet_server.rollout.effects import LeaseEnded, LeaseTaken
from edgefleet_server.rollout.model import Lease
from edgefleet_server.rollout.store import throttle
from tests.server.rollout import lease_audit
from tests.server.rollout.fleet_sim import World, make_world, stages
from tests.server.rollout.lease_audit import Held
from tests.server.rollout.limits_soak import HELD, Figures, run_fleet
from tests.support.postgres import binaries, shared_server

pytestmark = [pytest.mark.postgres, pytest.mark.skipif(binaries() is None, reason="PostgreSQL is not installed")]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A world on PostgreSQL."""
    server = shared_server()
    assert server is not None
    url = server.new_database()
    made = make_world(url, tmp_path / "a")
    yield made
    made.house.db.dispose()
    server.drop_database(url)


def waiting_for_a_lock(world: World) -> int:
    with world.house.db.engine.connect() as connection:
        asked = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%download_line%'"
        return int(connection.execute(text(asked)).scalar_one())


def test_an_engine_waits_for_another_that_takes_leases_and_counts_them(world: World) -> None:
    world.enrol(4, site="lab")
    world.release("1.1.0")
    rollout = world.create(stages=stages("100%"), limits={"concurrent_downloads": 3})
    world.tick()  # makes the assignments; who is new in this moment is offered nothing yet
    world.clock.turn(seconds=2)
    engine = world.replica("other")
    second = threading.Thread(target=lambda: engine.tick(is_woken=True))
    has_waited = False
    with world.house.db.session() as session:
        throttle.lock_line_for(session, {"limits": {"per_site": 9}})
        second.start()
        while second.is_alive() and not has_waited:
            has_waited = waiting_for_a_lock(world) > 0
        elsewhere = [
            LeaseTaken(Lease(DeviceId(f"d-{n}"), RolloutId("r-else"), "x", 9, datetime(2026, 11, 25, tzinfo=UTC)))
            for n in range(2)
        ]
        throttle.save(session, "r-else", elsewhere)
    second.join()
    assert has_waited
    with world.house.db.read() as session:
        assert len(throttle.leases_of(session, rollout)) == 1, "three minus the two that were committed meanwhile"


def test_three_engines_at_once_never_exceed_a_limit() -> None:
    figures = Figures()
    run_fleet(random.Random(6), figures, replicas=3, rounds=12)
    assert figures.breached == 0
    assert figures.at_limit > 0, "the limits were reached, else this shows nothing"
    assert figures.taken > HELD.per_site


# ---- the auditor notices


def test_a_rollout_within_what_it_is_held_to_breaches_nothing(world: World) -> None:
    held = Held(downloads=2, per_site=2, per_min=30)
    rollout = audited(world, limits=held.limits, rate=held.rate)
    counts = lease_audit.read(world.house.db, held)
    assert (counts.breached, counts.most) == (0, 2)
    assert counts.at_limit > 0
    assert lease_audit.too_soon(world.house.db, rollout, held) == []


def test_limits_that_are_wider_than_what_is_allowed_are_noticed(world: World) -> None:
    held = Held(downloads=2, per_site=2)
    audited(world, limits=Held(downloads=3, per_site=3).limits, rate=Held(2, 2, per_min=600).rate)
    assert lease_audit.read(world.house.db, held).breached > 0


def test_leases_that_were_too_many_for_a_moment_are_noticed_after_they_ended(world: World) -> None:
    held = Held(downloads=1, per_site=1)
    lease_audit.install(world.house.db)
    for number in range(2):
        with world.house.db.session() as session:
            taken = Lease(DeviceId(f"d-{number}"), RolloutId("r-x"), "x", 9, datetime(2026, 11, 25, tzinfo=UTC))
            throttle.save(session, "r-x", [LeaseTaken(taken)])
    with world.house.db.session() as session:
        throttle.save(session, "r-x", [LeaseEnded(DeviceId("d-0")), LeaseEnded(DeviceId("d-1"))])
    assert lease_audit.read(world.house.db, held).breached == 1


def test_a_rate_that_is_higher_than_what_is_allowed_is_noticed(world: World) -> None:
    held = Held(downloads=4, per_site=4, per_min=30)
    rollout = audited(world, limits=held.limits, rate=Held(4, 4, per_min=60).rate)
    assert "came 1.000 s after its first, not before 2.000 s" in lease_audit.too_soon(world.house.db, rollout, held)[0]


def audited(world: World, *, limits: dict[str, Any], rate: dict[str, Any]) -> str:
    """Return a rollout that ended under the eyes of the auditor."""
    world.enrol(5, site="lab")
    world.settle("1.0.0")
    world.release("1.1.0")
    lease_audit.install(world.house.db)
    rollout = world.create(stages=[{**stages("100%")[0], "rate": rate}], limits=limits)
    world.go_until_state(rollout, "finished")
    lease_audit.look(world.house.db)
    return rollout
