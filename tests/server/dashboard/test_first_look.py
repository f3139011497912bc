"""What is read before a person asks: soon after the start, again before it is stale, and a database that fails ends nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from sqlalchemy import event
from sqlalchemy.exc import OperationalError

from edgefleet_server.access.model import Role
from edgefleet_server.composition.api_app import create_app
from edgefleet_server.composition.dashboard_app import first_look
from edgefleet_server.dashboard.overview.first_look import AFTER_S, EVERY_S, FirstLook
from edgefleet_server.dashboard.timelines.time_range import Asked
from edgefleet_server.db.read_cache import STALE_S
from tests.server.dashboard.fleet import Fleet
from tests.server.dashboard.shelf import stocked
from tests.support.servers import HandClock

START = datetime(2026, 11, 25, 12, tzinfo=UTC)


def test_it_is_read_soon_and_again_before_it_is_stale() -> None:
    clock, looks = HandClock(START), []
    first = FirstLook(lambda: looks.append(clock.monotonic_s()), clock)
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


def test_a_database_that_fails_is_asked_again_later() -> None:
    clock, looks = HandClock(START), []

    def fail() -> None:
        looks.append(1)
        raise OperationalError("select 1", {}, Exception("it is gone"))

    first = FirstLook(fail, clock)
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
    with _statements(fleet) as asked:
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
    with _statements(fleet) as by_look:
        look = first_look(fleet.parts, app)
        fleet.house.clock.turn(seconds=AFTER_S)
        look.renew()
    with _statements(fleet) as by_person:
        models.overview("digits", None, Asked(), None)
    ahead = [one for one in set(by_look) - set(by_person) if "telemetry" in one]
    assert ahead, "the person's page read what it shows of telemetry itself"


@contextmanager
def _statements(fleet: Fleet) -> Iterator[list[str]]:
    asked: list[str] = []

    def note(*arguments: object) -> None:
        asked.append(str(arguments[2]))

    engine = fleet.parts.db.engine
    event.listen(engine, "before_cursor_execute", note)
    try:
        yield asked
    finally:
        event.remove(engine, "before_cursor_execute", note)
