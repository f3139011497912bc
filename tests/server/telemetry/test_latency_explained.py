"""Why latency rose, from telemetry through the real ingest to the API, on both databases."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest

from edgefleet_server.access.model import Role
from tests.server.conftest import KINDS, new_database
from tests.server.telemetry.sending_fleet import SendingFleet, message

STEPS, BEGIN = 48, 30


class Days:
    """A fleet of which each half a day tells another story: one device gets hot; a site gets a slow release; then nothing."""

    def __init__(self, sending: SendingFleet) -> None:
        self.sending = sending
        sending.join(4, "hall")
        sending.join(2, "kyoto")
        self.ends: list[datetime] = []
        hot = sending.devices[0].id
        kyoto = {one.id for one in sending.devices[4:]}

        def heats(step: int, device: str, said: dict[str, Any]) -> None:
            if device == hot and step >= BEGIN:
                said.update(ms=45.0, throttled_ratio=0.5, temperature_celsius=85.0)

        def updates(step: int, device: str, said: dict[str, Any]) -> None:
            if device in kyoto and step >= BEGIN:
                said.update(ms=70.0, version="1.1.0")

        for story in (heats, updates, None):
            sending.go_on(STEPS, story)
            self.ends.append(sending.fleet.house.clock.now())

    def ask(self, day: int, **more: Any) -> dict[str, Any]:
        """Return the API's explanation of half a day."""
        until = self.ends[day]
        since = until - timedelta(seconds=STEPS * 900)
        client = self.sending.fleet.house.client(Role.VIEWER)
        params = {"since": since.isoformat(), "until": until.isoformat(), **more}
        answer = client.get("/api/v1/models/digits/latency-explanation", params=params)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found


@pytest.fixture(scope="module", params=KINDS)
def days(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Days]:
    """The fleet; tests only ask."""
    folder = tmp_path_factory.mktemp("days")
    with new_database(request.param, folder, is_empty=False) as url:
        sending = SendingFleet(folder / "server", url=url)
        yield Days(sending)
        sending.fleet.close()


def test_a_hot_device_is_told_apart_from_others_with_its_bundle(days: Days) -> None:
    hot = days.sending.devices[0].id
    found = days.ask(0, device=hot)
    assert (found["state"], found["where"], found["place"], found["slower"], found["parts"]) == (
        "rise",
        "device",
        hot,
        1,
        6,
    )
    first = found["causes"][0]
    assert (first["kind"], first["verdict"]) == ("throttling", "likely")
    assert (first["before"], first["after"]) == pytest.approx((0, 0.5))
    assert "it did not change in the 5 devices that stayed fast" in first["evidence"]
    assert "throttled clock" in found["said"]
    assert "cooling" in found["next"]
    begin = days.ends[0] - timedelta(seconds=(STEPS - BEGIN) * 900)
    assert abs(datetime.fromisoformat(found["rise"]["since"]) - begin) <= timedelta(seconds=900)
    others = {one["kind"]: one["verdict"] for one in found["causes"]}
    assert others["network"] == "ruled_out"
    assert others["load"] == others["memory"] == "unchanged"


def test_a_slow_release_at_one_site_is_found_over_the_whole_fleet(days: Days) -> None:
    found = days.ask(1)
    assert (found["state"], found["where"], found["place"]) == ("rise", "site", "kyoto")
    assert found["rise"]["after_ms"] == pytest.approx(70, rel=0.05), "of all answers, not a mean of the versions'"
    first = found["causes"][0]
    assert (first["kind"], first["verdict"], first["title"]) == ("release", "likely", "Version 1.1.0")
    assert found["next"] == "go back to the release before: `edgectl undo digits`"
    assert any("other versions stayed at" in one for one in first["evidence"])


def test_where_nothing_got_slower_nothing_is_blamed(days: Days) -> None:
    found = days.ask(2)
    assert (found["state"], found["causes"], found["next"]) == ("no_rise", [], "")
    cool = days.sending.devices[1].id
    assert days.ask(0, device=cool)["state"] == "no_rise"
    early = days.sending.fleet.house.client(Role.VIEWER).get(
        "/api/v1/models/digits/latency-explanation",
        params={"since": "2026-01-01T00:00:00Z", "until": "2026-01-02T00:00:00Z"},
    )
    assert early.json()["state"] == "no_data"


def test_what_comes_late_is_seen_in_the_past(days: Days) -> None:
    """The device was away for ten days: what it sends then is of the time before."""
    sending = days.sending
    late = sending.devices[1].id
    begin = days.ends[2]
    for step in range(STEPS):
        at = int(begin.timestamp()) + step * 900
        slow = lambda n, _device, said: said.update(ms=45.0 if n >= BEGIN else 20.0)  # noqa: E731
        sending.fleet.house.clock.turn(seconds=0 if step else 10 * 86_400)
        sending.parts.telemetry.ingest([message(step, late, at, slow)])
    until = (begin + timedelta(seconds=STEPS * 900)).isoformat()
    span = {"since": begin.isoformat(), "until": until}
    client = sending.fleet.house.client(Role.VIEWER)
    found = client.get("/api/v1/models/digits/latency-explanation", params={**span, "device": late})
    assert found.json()["state"] == "rise"
    figures = client.get(f"/api/v1/devices/{late}/metrics", params=span).json()
    assert sum(one or 0 for one in figures["lines"][0]["requests"]) == 900 * STEPS
    # minutes are kept for two days: of an older hour the quarters say it
    old = {"since": begin.isoformat(), "until": (begin + timedelta(hours=3)).isoformat()}
    assert client.get("/api/v1/models/digits/latency-explanation", params=old).json()["step_s"] == 900


def test_who_is_not_there_is_not_explained(days: Days) -> None:
    client = days.sending.fleet.house.client(Role.VIEWER)
    assert client.get("/api/v1/models/nobody/latency-explanation").json()["code"] == "model.unknown"
    assert client.get("/api/v1/models/digits/latency-explanation", params={"device": "nobody"}).status_code == 404
