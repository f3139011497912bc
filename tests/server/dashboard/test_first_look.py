"""What is read before a person asks: soon after the start, again before it is stale, and a database that fails ends nothing."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from sqlalchemy import delete, select
from sqlalchemy.exc import OperationalError
from sqlmodel import col

from edgefleet_protocol.ids import ReleaseRef
from edgefleet_protocol.messages import Phase
from edgefleet_server.access.model import Role
from edgefleet_server.composition.api_app import create_app
from edgefleet_server.composition.dashboard_app import first_look
from edgefleet_server.dashboard.overview.first_look import AFTER_S, EVERY_S, LARGE, WATCHED_S, FirstLook
from edgefleet_server.dashboard.timelines.time_range import Asked
from edgefleet_server.db.read_cache import STALE_S
from edgefleet_server.registry.tables import AliasRow, BundleRow, ModelRow, ReleaseRow
from tests.server.dashboard.fleet import ORT, Fleet
from tests.server.dashboard.shelf import shelve, stocked
from tests.support.servers import HandClock
from tests.support.statements import heard

START = datetime(2026, 11, 25, 12, tzinfo=UTC)


def test_it_is_read_soon_and_again_before_it_is_stale() -> None:
    clock, looks = HandClock(START), []

    def look() -> int:
        looks.append(clock.monotonic_s())
        return 0

    first = FirstLook(look, lambda: 0, clock)
    first.renew()
    assert not looks
    clock.turn(seconds=AFTER_S)
    for _ in range(int(EVERY_S)):
        first.renew()
        clock.turn(seconds=1)
    assert len(looks) == 1
    first.renew()
    assert len(looks) == 2
    assert EVERY_S < STALE_S


@pytest.mark.parametrize("devices", [LARGE - 1, LARGE])
def test_while_nobody_looks_only_a_large_fleet_is_read_ahead(devices: int) -> None:
    clock, looks, visits = HandClock(START), [], [0]

    def look() -> int:
        looks.append(clock.monotonic_s())
        return devices

    def looks_in(seconds: float) -> int:
        before = len(looks)
        for _ in range(int(seconds)):
            first.renew()
            clock.turn(seconds=1)
        return len(looks) - before

    first = FirstLook(look, lambda: visits[0], clock)
    assert looks_in(AFTER_S + WATCHED_S) == 2
    assert looks_in(10 * EVERY_S) == (10 if devices == LARGE else 0)
    visits[0] += 1
    assert looks_in(EVERY_S + 1) == 2
    assert bool(looks_in(WATCHED_S)) is (devices == LARGE)


def test_a_database_that_fails_is_asked_again_later() -> None:
    clock, looks = HandClock(START), []

    def fail() -> int:
        looks.append(1)
        raise OperationalError("select 1", {}, Exception("it is gone"))

    first = FirstLook(fail, lambda: 0, clock)
    for _ in range(2):
        clock.turn(seconds=EVERY_S)
        first.renew()
    assert len(looks) == 2


def test_a_person_who_looks_then_waits_for_no_reading_of_all_devices(fleet: Fleet) -> None:
    fleet.device("cam")
    browser = fleet.browser(Role.VIEWER)
    look = first_look(fleet.parts, create_app(fleet.parts))
    fleet.house.clock.turn(seconds=AFTER_S)
    look.renew()
    with heard(fleet.parts.db) as asked:
        page = browser.get("/")
        browser.get("/devices")
    assert "1 device" in page.text
    whole = [one for one in asked if "group_concat" in one or "string_agg" in one]
    assert asked
    assert not whole


def test_the_page_of_a_model_that_runs_is_read_ahead(fleet: Fleet) -> None:
    stocked(fleet)
    app = create_app(fleet.parts)
    models = app.state.dashboard.models
    with heard(fleet.parts.db) as by_look:
        look = first_look(fleet.parts, app)
        fleet.house.clock.turn(seconds=AFTER_S)
        look.renew()
    with heard(fleet.parts.db) as by_person:
        models.overview("digits", None, Asked(), None)
    ahead = [one for one in set(by_look) - set(by_person) if "telemetry" in one]
    assert ahead, "the person's page read what it shows of telemetry itself"


def test_a_model_that_is_not_known_here_keeps_no_other_from_being_read_ahead(fleet: Fleet) -> None:
    stocked(fleet)
    shelve(fleet, "words@1.0.0", ORT)
    device = fleet.device("roof")
    fleet.parts.fleet.deployer.deploy(ReleaseRef.parse("words@1.0.0"), device=device.id)
    device.report(Phase.COMMITTED, model="words")
    with fleet.parts.db.session() as session:  # a server that was restored knows less than its devices run
        of_digits = select(col(ReleaseRow.id)).where(col(ReleaseRow.model) == "digits")
        session.execute(delete(BundleRow).where(col(BundleRow.release_id).in_(of_digits)))
        session.execute(delete(AliasRow).where(col(AliasRow.model) == "digits"))
        session.execute(delete(ReleaseRow).where(col(ReleaseRow.model) == "digits"))
        session.execute(delete(ModelRow).where(col(ModelRow.name) == "digits"))
    fleet.house.clock.turn(minutes=10)
    running = [model for model, _, _ in fleet.parts.fleet.lists.facets().versions]
    app = create_app(fleet.parts)
    look = first_look(fleet.parts, app)
    fleet.house.clock.turn(seconds=AFTER_S)
    look.renew()
    with heard(fleet.parts.db) as by_person:
        app.state.dashboard.models.overview("words", None, Asked(), None)
    assert running.index("digits") < running.index("words")
    assert not [one for one in by_person if "telemetry" in one]
