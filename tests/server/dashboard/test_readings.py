"""What pages read a moment ago is not read again, is not kept for long, and is shown of no other fleet."""

import re
import threading
from collections.abc import Iterator
from contextvars import ContextVar, copy_context
from itertools import count
from typing import Any

import pytest
from fastapi.testclient import TestClient

from edgefleet_protocol.errors import EdgefleetError
from edgefleet_protocol.ids import ModelName
from edgefleet_server.access.model import Role
from edgefleet_server.dashboard.core.readings import KEPT_S, LATE_S, MOST_KEPT, PATIENCE, Readings
from edgefleet_server.rollout import service
from edgefleet_server.telemetry.latency.service import LatencyExplainer
from edgefleet_server.telemetry.latency.views import LatencyExplanation
from tests.server.dashboard.fleet import STAGES, Fleet
from tests.server.fleet.house import TurnedClock
from tests.server.telemetry.sending_fleet import SendingFleet

ROLLOUT = "r-aaaaaaaaaaaaa"


def test_a_reading_is_kept_for_some_seconds() -> None:
    clock, counted = TurnedClock(), count()
    readings = Readings(clock)
    assert [readings.of("page", key, lambda: next(counted)) for key in ("a", "a", "b")] == [0, 0, 1]
    clock.turn(seconds=KEPT_S)
    assert readings.of("page", "a", lambda: next(counted)) == 2


def test_what_took_long_to_read_is_kept_longer() -> None:
    clock, counted = TurnedClock(), count()
    readings = Readings(clock)

    def slow() -> int:
        clock.turn(seconds=2)
        return next(counted)

    assert readings.of("page", "a", slow) == 0
    clock.turn(seconds=2 * PATIENCE - 1)
    assert readings.of("page", "a", slow) == 0
    clock.turn(seconds=1)
    assert readings.of("page", "a", slow) == 0, "nobody waits for it: it is read meanwhile"
    for thread in threading.enumerate():
        if thread.name == "readings":
            thread.join()
    assert readings.of("page", "a", slow) == 1
    clock.turn(seconds=2 * PATIENCE + LATE_S)
    assert readings.of("page", "a", slow) == 2, "what is older is not shown"


def test_what_cannot_be_read_again_is_not_shown_for_long() -> None:
    clock = TurnedClock()
    readings = Readings(clock)

    def slow() -> str:
        clock.turn(seconds=2)
        return "first"

    def broken() -> str:
        raise EdgefleetError("gone")

    assert readings.of("page", "a", slow) == "first"
    clock.turn(seconds=2 * PATIENCE)
    assert readings.of("page", "a", broken) == "first"
    for thread in threading.enumerate():
        if thread.name == "readings":
            thread.join()
    clock.turn(seconds=LATE_S)
    with pytest.raises(EdgefleetError):
        readings.of("page", "a", broken)


def test_the_oldest_goes_where_there_are_many_and_an_error_is_not_kept() -> None:
    readings = Readings(TurnedClock())
    for number in range(MOST_KEPT + 1):
        readings.of("page", number, lambda: "first")
    assert readings.of("page", MOST_KEPT, lambda: "again") == "first"
    assert readings.of("page", 0, lambda: "again") == "again"
    with pytest.raises(ZeroDivisionError):
        readings.of("page", "x", lambda: 1 / 0)
    assert readings.of("page", "x", lambda: 7) == 7


def test_users_have_keys_and_a_bound_of_their_own() -> None:
    readings = Readings(TurnedClock())
    assert readings.of("charts", 0, lambda: "charts") == "charts"
    assert readings.of("gates", 0, lambda: "gates") == "gates"
    for number in range(MOST_KEPT):
        readings.of("gates", number + 1, lambda: "many")
    assert [readings.of(user, 0, lambda: "again") for user in ("charts", "gates")] == ["charts", "again"]


def test_what_is_read_meanwhile_is_read_in_the_context_of_its_caller() -> None:
    clock, caller, seen = TurnedClock(), ContextVar("caller", default="nobody"), []
    readings = Readings(clock)

    def slow() -> None:
        clock.turn(seconds=2)
        seen.append((threading.current_thread().name, caller.get()))

    def ask() -> None:
        caller.set("one")
        readings.of("page", "a", slow)
        clock.turn(seconds=2 * PATIENCE)
        readings.of("page", "a", slow)

    copy_context().run(ask)
    for thread in threading.enumerate():
        if thread.name == "readings":
            thread.join()
    assert [caller for _, caller in seen] == ["one", "one"]
    assert seen[1][0] == "readings"


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Fleet, Fleet]]:
    """A fleet with figures and one without, at the same time, with the same model and a rollout of the same id. Tests only look."""
    made = [SendingFleet(tmp_path_factory.mktemp(name) / "server") for name in ("busy", "idle")]
    busy, idle = made
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(service, "_new_id", lambda: ROLLOUT)
        for one in made:
            one.join(4, "hall")
            one.fleet.rollout(release="digits@1.1.0", selector="", stages=STAGES)
    busy.go_on(8, lambda _step, _device, said: said.update(version="1.1.0"))
    idle.fleet.house.clock.time = busy.fleet.house.clock.time
    yield busy.fleet, idle.fleet
    for one in made:
        one.fleet.close()


PATHS = ("/", "/fleet", "/models", "/models/digits", "/models/digits/latency", f"/rollouts/{ROLLOUT}")


@pytest.mark.parametrize("path", PATHS)
def test_a_fleet_is_not_shown_what_another_one_read(two: tuple[Fleet, Fleet], path: str) -> None:
    """One app shows both, which a test process makes once; an app of its own shows what is right."""
    first, second = (shown(one.browser(Role.VIEWER), path) for one in two)
    alone = TestClient(two[1].house.own_app(), base_url="http://fleet.test", follow_redirects=False)
    alone.post("/login", data={"token": two[1].house.token(Role.VIEWER)})
    assert second == shown(alone, path)
    assert first != second


def test_why_latency_rose_is_read_once_for_both_pages(
    two: tuple[Fleet, Fleet], monkeypatch: pytest.MonkeyPatch
) -> None:
    busy, asked = two[0], []
    explain = LatencyExplainer.explain

    def counted(self: LatencyExplainer, model: ModelName, *of: Any) -> LatencyExplanation:
        asked.append(model)
        return explain(self, model, *of)

    monkeypatch.setattr(LatencyExplainer, "explain", counted)
    browser = busy.browser(Role.VIEWER)
    for path in ("/models/digits?span=7d", "/models/digits/latency?span=7d"):
        shown(browser, path)
    assert asked == ["digits"]


def shown(browser: TestClient, path: str) -> str:
    """Return a page without what each session has of its own."""
    answer = browser.get(path)
    assert answer.status_code == 200
    return re.sub(r'name="form_key" value="[^"]*"', "", answer.text)
