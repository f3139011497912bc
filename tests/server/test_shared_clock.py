"""Replicas whose own clocks differ go by the database's: on PostgreSQL, with real processes' clocks and real rows."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import func, select

from edgefleet_server.clock import SystemClock
from edgefleet_server.composition.container import build_parts
from edgefleet_server.conversion.service import LEASE
from edgefleet_server.conversion.tables import JobRow
from edgefleet_server.db.database import Database
from edgefleet_server.db.shared_clock import ASK_EVERY_S, DatabaseClock, shared_clock
from edgefleet_server.process.lifecycle.engine_work import build_webhook_sender
from edgefleet_server.rollout.controller.controller import RolloutController
from edgefleet_server.rollout.store import rollouts as rollout_store
from edgefleet_server.rollout.store.tables import Rollout
from edgefleet_server.webhook import store as webhook_store
from edgefleet_server.webhook.engine import WebhookSender
from edgefleet_server.webhook.tables import Webhook
from tests.crash.replica import ClockAhead
from tests.server.conversion.test_queue import spec as job_spec
from tests.server.fleet.house import House, TurnedClock
from tests.server.rollout.fleet_sim import World, stages
from tests.support.postgres import binaries, shared_server

pytestmark = [pytest.mark.postgres, pytest.mark.skipif(binaries() is None, reason="PostgreSQL is not installed")]
NEAR = timedelta(seconds=5)
"""The two processors are busy; the clocks in question differ by a minute."""


def test_processes_on_sqlite_share_the_clock_of_their_machine(tmp_path: Path) -> None:
    own = TurnedClock()
    assert shared_clock(Database(f"sqlite:///{tmp_path / 'a.db'}"), own) is own


def time_of(db: Database) -> datetime:
    with db.engine.connect() as connection:
        found: datetime = connection.execute(select(func.clock_timestamp())).scalar_one()
        return found


@pytest.fixture
def url() -> Iterator[str]:
    """A database on PostgreSQL."""
    server = shared_server()
    assert server is not None
    made = server.new_database()
    yield made
    server.drop_database(made)


class Hands:
    """A clock whose time and whose monotonic time a test turns, each by itself."""

    def __init__(self) -> None:
        self.time = SystemClock().now() - timedelta(days=3)
        self.passed_s = 100.0

    def now(self) -> datetime:
        """Return the set time."""
        return self.time

    def monotonic_s(self) -> float:
        """Return the set seconds."""
        return self.passed_s

    def go(self, seconds: float) -> None:
        """Let time pass."""
        self.time += timedelta(seconds=seconds)
        self.passed_s += seconds


def test_it_is_the_databases_whatever_the_own_one_says(url: str) -> None:
    db = Database(url)
    for ahead_s in (60, -60, 86_400):
        found = DatabaseClock(db, ClockAhead(ahead_s)).now()
        assert abs(found - time_of(db)) < NEAR
    db.dispose()


def test_between_two_answers_it_goes_on_by_itself(url: str) -> None:
    db, own = Database(url), Hands()
    clock = DatabaseClock(db, own)
    first = clock.now()
    own.go(ASK_EVERY_S / 2)
    assert clock.now() - first == timedelta(seconds=ASK_EVERY_S / 2), "no time has passed in the database"
    own.go(ASK_EVERY_S / 2)
    assert abs(clock.now() - time_of(db)) < NEAR, "it was asked again"
    db.dispose()


def test_a_step_of_the_own_clock_moves_nothing(url: str) -> None:
    db, own = Database(url), Hands()
    clock = DatabaseClock(db, own)
    clock.now()
    own.time += timedelta(hours=1)
    assert abs(clock.now() - time_of(db)) < NEAR
    db.dispose()


def test_a_machine_that_slept_asks_again(url: str) -> None:
    db, own = Database(url), Hands()
    clock = DatabaseClock(db, own)
    clock.now()
    own.time += timedelta(minutes=5)  # the monotonic clock stood still
    own.passed_s += 1
    assert abs(clock.now() - time_of(db)) < NEAR
    db.dispose()


def test_it_goes_on_while_the_database_is_away(url: str) -> None:
    server = shared_server()
    assert server is not None
    gone = server.new_database()
    db, own = Database(gone), Hands()
    clock = DatabaseClock(db, own)
    first = clock.now()
    server.drop_database(gone)
    own.go(10 * ASK_EVERY_S)
    assert clock.now() - first == timedelta(seconds=10 * ASK_EVERY_S)
    db.dispose()


@pytest.mark.parametrize("ahead_s", [60.0, -60.0])
def test_a_replica_whose_clock_is_off_holds_a_rollout_no_longer_than_its_lease(
    url: str, tmp_path: Path, ahead_s: float
) -> None:
    house = House(url, tmp_path, SystemClock())
    world = World(house)
    world.enrol(2)
    world.settle("1.0.0")
    world.release("1.1.0")
    rollout = world.create(stages=stages("100%", soak="1h"))
    parts = build_parts(house.settings, ClockAhead(ahead_s))
    clock = parts.rollout.clock
    engine = RolloutController(parts.db, parts.fleet, parts.rollout, clock, "off")
    assert engine.tick(is_woken=True) == 1
    found = row_of(house, rollout)
    assert found.next_eval_at is not None
    assert found.next_eval_at - time_of(house.db) < timedelta(seconds=2) + NEAR, "else nobody looks at it for a minute"
    with house.db.session() as session:  # it claims once more, and dies
        assert rollout_store.lease(
            rollout_store.lock_due(session, "off", clock.now(), woken_but=()), "off", clock.now()
        )
    found = row_of(house, rollout)
    assert found.lease_until is not None
    assert abs(found.lease_until - time_of(house.db) - rollout_store.LEASE) < NEAR
    parts.db.dispose()
    house.db.dispose()


@pytest.mark.parametrize("ahead_s", [60.0, -60.0])
def test_a_replica_whose_clock_is_off_holds_no_conversion_and_no_webhook_longer_than_its_lease(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ahead_s: float
) -> None:
    house = House(url, tmp_path, SystemClock(), webhook_networks=("127.0.0.0/8",))
    parts = build_parts(house.settings, ClockAhead(ahead_s))
    parts.conversion.enqueue(job_spec())
    assert parts.conversion.claim("off")[0] is not None
    made = parts.webhooks.create("chat", "http://127.0.0.1:9/hook", [], "ann")
    parts.webhooks.ping(made.webhook.id)
    monkeypatch.setattr(WebhookSender, "_lane", lambda *_: None)  # it claims, and dies
    sender = build_webhook_sender(parts, "off")
    assert sender.tick() == 1, "what is due now is not due in a minute"
    sender.stop()
    with house.db.read() as session:
        leases = [
            (session.execute(select(JobRow.lease_until)).scalar_one(), LEASE),  # type: ignore[call-overload]
            (session.execute(select(Webhook.lease_until)).scalar_one(), webhook_store.LEASE),  # type: ignore[call-overload]
        ]
    now = time_of(house.db)
    assert [abs(until - now - lease) < NEAR for until, lease in leases] == [True, True], leases
    parts.db.dispose()
    house.db.dispose()


def row_of(house: House, rollout: str) -> Rollout:
    with house.db.read() as session:
        return rollout_store.rollout(session, rollout)
