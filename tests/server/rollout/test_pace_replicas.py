"""Limits with several engines on PostgreSQL: real rows, real locks, engines at once."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import text

from edgefleet_protocol.ids import DeviceId, RolloutId
from edgefleet_server.rollout import pace_store
from edgefleet_server.rollout.pace import Lease, LeaseTaken
from tests.server.rollout.fleet_sim import World, make_world, stages
from tests.server.rollout.limits_soak import PER_SITE, Figures, run_fleet
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
        pace_store.lock_line_for(session, {"limits": {"per_site": 9}})
        second.start()
        while second.is_alive() and not has_waited:
            has_waited = waiting_for_a_lock(world) > 0
        elsewhere = [
            LeaseTaken(Lease(DeviceId(f"d-{n}"), RolloutId("r-else"), "x", 9, datetime(2026, 11, 25, tzinfo=UTC)))
            for n in range(2)
        ]
        pace_store.save(session, "r-else", elsewhere)
    second.join()
    assert has_waited
    with world.house.db.read() as session:
        assert len(pace_store.leases_of(session, rollout)) == 1, "three minus the two that were committed meanwhile"


def test_three_engines_at_once_never_exceed_a_limit() -> None:
    figures = Figures()
    run_fleet(random.Random(6), figures, replicas=3, rounds=12)
    assert figures.breached == 0
    assert figures.at_limit > 0, "the limits were reached, else this shows nothing"
    assert figures.taken > PER_SITE
