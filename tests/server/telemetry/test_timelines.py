"""Figures over time, from what devices send through the real ingest, on both databases."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from edgefleet_protocol.sketch import LatencySketch
from edgefleet_server.access.model import Role
from edgefleet_server.events.model import EventView, NewEvent
from edgefleet_server.fleet.presence.model import FleetStep
from edgefleet_server.telemetry.rollups.model import FigureSums, Step, Sums, SystemSums
from edgefleet_server.telemetry.timelines.marks import marks_of
from edgefleet_server.telemetry.timelines.model import MOST_CLASSES, MOST_POINTS, LinesBy, MarkKind, Scope, Timeline
from edgefleet_server.telemetry.timelines.service import MOST_MARKS
from edgefleet_server.telemetry.timelines.timeline_figures import (
    begins,
    class_shares,
    classes_of,
    line_of,
    scale_of,
    step_length,
    system_of,
)
from tests.server.conftest import KINDS, new_database
from tests.server.fleet.house import START
from tests.server.telemetry.sending_fleet import WINDOW_S, SendingFleet


@pytest.fixture(scope="module", params=KINDS)
def sending(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SendingFleet]:
    """Two devices in hall, one in kyoto, that answer for six hours; in the second half one of hall runs 1.1.0, slower.

    Tests only look at it, or add events.
    """
    folder = tmp_path_factory.mktemp("sending")
    with new_database(request.param, folder, is_empty=False) as url:
        yield from _sending(folder, url)


def _sending(folder: Path, url: str) -> Iterator[SendingFleet]:
    made = SendingFleet(folder / "server", url=url)
    made.join(2, "hall")
    made.join(1, "kyoto")
    made.parts.fleet.groups.create("halls", "site=hall", "ann")

    def later(step: int, device: str, said: dict[str, Any]) -> None:
        if device == made.devices[0].id:
            said.update(version="1.1.0", ms=40.0, errors=9, classes=[100, 100, 700], temperature_celsius=80.0)

    made.go_on(12)
    made.go_on(12, later)
    yield made
    made.fleet.close()


def read(sending: SendingFleet, scope: Scope, name: str, **more: Any) -> Timeline:
    now = sending.fleet.house.clock.now()
    found: Timeline = sending.parts.timelines.reader.read(scope, name, now - timedelta(hours=6), now, **more)
    return found


def test_the_lines_of_a_model_are_its_versions(sending: SendingFleet) -> None:
    found = read(sending, Scope.MODEL, "digits", points=30)
    assert (found.step_s, len(found.at), [one.key for one in found.lines]) == (WINDOW_S, 24, ["1.0.0", "1.1.0"])
    old, new = found.lines
    assert [sum(filter(None, line.requests)) for line in found.lines] == [900 * (36 + 24), 900 * 12]
    assert (old.requests[0], old.requests[-1], new.requests[0], new.requests[-1]) == (2700, 1800, None, 900)
    assert old.requests_per_s[0] == pytest.approx(3.0)
    assert old.p95_ms[0] == pytest.approx(20, rel=0.05)
    assert new.p95_ms[-1] == pytest.approx(40, rel=0.05)
    assert sum(filter(None, new.errors)) == 9 * 12
    assert {one.index: one.share[-1] for one in new.classes} == pytest.approx({0: 0.111, 1: 0.111, 2: 0.778}, abs=0.01)


@pytest.mark.parametrize(
    ("by", "keys"),
    [
        (LinesBy.NONE, [""]),
        (LinesBy.SITE, ["hall", "kyoto"]),
        (LinesBy.GROUP, ["", "halls"]),
        (LinesBy.PROFILE, ["generic-x86_64-ort"]),
        (LinesBy.MODEL, ["digits"]),
    ],
)
def test_lines_can_be_told_apart_otherwise(sending: SendingFleet, by: LinesBy, keys: list[str]) -> None:
    found = read(sending, Scope.MODEL, "digits", by=by)
    assert [one.key for one in found.lines] == keys
    assert sum(sum(filter(None, line.requests)) for line in found.lines) == 900 * 72


def test_the_fleet_a_group_and_a_device_say_the_same_of_the_same_time(sending: SendingFleet) -> None:
    fleet, group = (read(sending, *of, points=30) for of in ((Scope.FLEET, ""), (Scope.GROUP, "halls")))
    device = read(sending, Scope.DEVICE, sending.devices[0].id, points=25)
    totals = [sum(filter(None, one.lines[0].requests)) for one in (fleet, group, device)]
    assert totals == [900 * 72, 900 * 48, 900 * 24]
    assert [one.lines[0].key for one in (fleet, group, device)] == ["digits"] * 3
    assert device.system["temperature_celsius"][-1] == 80
    assert device.system["net_rx_bytes_per_s"][-1] == pytest.approx(100)
    assert group.system_most["temperature_celsius"][-1] == 80


def test_a_month_has_no_more_points_than_asked_for(sending: SendingFleet) -> None:
    now = sending.fleet.house.clock.now()
    for points in (2, 60, MOST_POINTS):
        found = sending.parts.timelines.reader.read(Scope.FLEET, "", now - timedelta(days=31), now, points=points)
        assert len(found.at) <= points
        assert sum(filter(None, found.lines[0].requests)) == 900 * 72


class Counted(list[FleetStep]):
    """Steps that count how often somebody went through them."""

    reads = 0

    def __iter__(self) -> Iterator[FleetStep]:
        self.reads += 1
        return super().__iter__()


def test_the_steps_of_the_fleet_are_added_up_once(sending: SendingFleet, monkeypatch: pytest.MonkeyPatch) -> None:
    now = sending.fleet.house.clock.now()
    begin = int(now.timestamp()) // 60 * 60 - 86_400
    kept = Counted(FleetStep(begin + n * 60, 1, n % 3, 3, 0, 0) for n in range(1_440))
    monkeypatch.setattr(sending.parts.fleet.presence, "fleet", lambda *_: kept)
    found = sending.parts.timelines.reader.read(Scope.FLEET, "", now - timedelta(days=1), now)
    assert found.system["online_ratio"][:4] == [
        0.0,
        pytest.approx(1 / 3, abs=1e-5),
        pytest.approx(2 / 3, abs=1e-5),
        0.0,
    ]
    assert kept.reads == 1


def test_rollouts_alerts_and_drift_are_marks(sending: SendingFleet) -> None:
    feed = sending.parts.fleet.feed
    one = {"subject": "model:digits@cam", "shown": "digits on cam"}
    feed.add(
        [
            NewEvent("rollout", model="digits", rollout="r1", detail={"to": "running", "from": "validating", "release": "digits@1.1.0"}),
            NewEvent("rollout", model="digits", rollout="r1", detail={"to": "running", "from": "paused", "release": "digits@1.1.0"}),
            NewEvent("rollout", model="digits", rollout="r1", detail={"to": "rolling_back", "from": "running", "release": "digits@1.1.0"}),
            NewEvent("rollout", model="other", rollout="r2", detail={"to": "finished", "from": "running", "release": "other@1.0.0"}),
            NewEvent("alert", detail={"to": "firing", "rule": "latency", "title": "digits is slow", "alerts": [one]}),
            NewEvent("alert", detail={"to": "firing", "rule": "disk", "title": "disk is full", "alerts": [{"subject": "disk:blobs"}]}),
            *(NewEvent("drift", f"d-{n}", "digits", detail={"signal": "brightness"}) for n in range(30)),
        ]
    )  # fmt: skip
    marks = read(sending, Scope.MODEL, "digits").marks
    assert [(one.kind, one.title, one.n) for one in marks] == [
        (MarkKind.DEPLOY, "digits@1.1.0 begins", 1),
        (MarkKind.ROLLBACK, "digits@1.1.0 goes back", 1),
        (MarkKind.ALERT, "digits is slow", 1),
        (MarkKind.DRIFT, "brightness drifts", 30),
    ]
    fleet = [one.title for one in read(sending, Scope.FLEET, "").marks]
    assert {"other@1.0.0 is everywhere", "disk is full"} <= set(fleet)


def test_figures_come_over_rest_and_as_csv(sending: SendingFleet) -> None:
    client = sending.fleet.house.client(Role.VIEWER)
    device = sending.devices[0].id
    for path in ("fleet", "models/digits", "groups/halls", f"devices/{device}"):
        span = {"since": (sending.fleet.house.clock.now() - timedelta(hours=6)).isoformat(), "points": 40}
        answer = client.get(f"/api/v1/{path}/metrics", params=span)
        assert answer.status_code == 200, answer.text
        body = answer.json()
        file = client.get(f"/api/v1/{path}/metrics.csv", params=span)
        assert file.headers["content-type"].startswith("text/csv")
        rows = list(csv.DictReader(io.StringIO(file.text)))
        for line in body["lines"]:
            mine = [int(row["requests"]) for row in rows if row["line"] == line["key"]]
            assert mine == [one for one in line["requests"] if one is not None]
        assert any(row["line"] == "devices" and row["temperature_celsius"] for row in rows)
    assert client.get("/api/v1/models/nobody/metrics").json()["code"] == "model.unknown"
    assert client.get("/api/v1/groups/nobody/metrics").status_code == 404
    assert client.get("/api/v1/devices/nobody/metrics.csv").status_code == 404
    backwards = {"since": "2026-01-02T00:00:00Z", "until": "2026-01-01T00:00:00Z"}
    refused = client.get("/api/v1/fleet/metrics", params=backwards).json()
    assert (refused["code"], "is not before" in refused["detail"]) == ("telemetry.bad_span", True)
    assert client.get("/api/v1/fleet/metrics", params={"since": "0001-01-01T00:00:00Z"}).status_code == 200
    assert client.get("/api/v1/fleet/metrics", params={"until": "9999-12-31T23:59:59-12:00"}).status_code == 200
    ancient = client.get("/api/v1/fleet/metrics", params={"until": "0001-01-01T00:00:00Z"})
    assert ancient.json()["code"] == "telemetry.bad_span"


def test_a_window_that_is_longer_than_a_step_is_a_rate_and_no_spike(sending: SendingFleet) -> None:
    now = sending.fleet.house.clock.now()
    found = sending.parts.timelines.reader.read(Scope.FLEET, "", now - timedelta(hours=5), now - timedelta(hours=2))
    assert found.step_s == 60
    rates = [one for one in found.lines[0].requests_per_s if one is not None]
    assert len(rates) > 160
    assert rates == pytest.approx([3.0] * len(rates))


def test_steps_that_devices_still_have_to_report_have_no_rate(sending: SendingFleet) -> None:
    rates = read(sending, Scope.FLEET, "", points=30).lines[0].requests_per_s
    assert rates[-1] is None
    assert rates[-3] == pytest.approx(3.0)


def sums(n: int, seconds: int) -> Sums:
    return Sums(1, seconds, n, 0, 0, 0, 0, LatencySketch(), (), 0.0, 0.0, 0)


def test_a_rate_is_spread_over_a_part_of_the_last_step() -> None:
    at = list(range(0, 3600, 300))
    rates = line_of("1.0.0", {0: sums(400, 400)}, at, 300, 10**9).requests_per_s
    assert rates[:3] == [1.0, pytest.approx(1 / 3, abs=1e-4), None]


def test_a_window_of_a_year_is_spread_over_the_axis_only() -> None:
    at = list(range(0, 3600, 60))
    cells = {60 * n: sums(900, 400 * 86_400) for n in range(10)}
    assert line_of("1.0.0", cells, at, 60, 10**9).requests_per_s[0] == pytest.approx(0.0, abs=1e-4)


def test_classes_are_counted_over_all_lines() -> None:
    wide, narrow = (
        replace(sums(21, 900), classes=(3, 3, 3, 3, 3, 3, 3)),
        replace(sums(90, 900), classes=(0, 0, 0, 0, 0, 0, 90)),
    )
    steps = [Step(START, (key,), one) for key, one in (("1", wide), ("2", narrow))]
    found = classes_of(steps, [int(START.timestamp()) // 900 * 900], 900)
    assert {one.index: one.share[0] for one in found}[6] == pytest.approx(93 / 111, abs=1e-4)


def test_what_a_device_says_late_is_a_mark_where_it_happened(sending: SendingFleet) -> None:
    clock, feed, device = sending.fleet.house.clock, sending.parts.fleet.feed, sending.devices[1].id
    clock.turn(seconds=1)
    begun = clock.now()
    clock.turn(seconds=9)
    until = clock.now()
    clock.turn(seconds=9)
    row = {
        "device_id": device, "boot_id": "late", "seq": 1, "at": begun + timedelta(seconds=1), "received_at": clock.now(),
        "kind": "rollback", "model": "digits", "rollout_id": None, "detail": {"reason": "slow"},
    }  # fmt: skip
    assert feed.add_reported([row]) == 1
    found = sending.parts.timelines.reader.read(Scope.DEVICE, device, begun, until)
    assert [one.title for one in found.marks] == ["digits went back: slow"]


def test_marks_are_not_pushed_out_by_what_devices_say(sending: SendingFleet) -> None:
    clock, feed = sending.fleet.house.clock, sending.parts.fleet.feed
    clock.turn(seconds=1)
    begun = clock.now()
    detail = {"to": "running", "from": "validating", "release": "digits@1.2.0"}
    alert = {"to": "firing", "title": "budget is spent", "alerts": [{"subject": "slo:fast", "model": "digits"}]}
    feed.add([
        NewEvent("rollout", model="digits", rollout="r9", detail=detail),
        NewEvent("alert", detail=alert),
    ])  # fmt: skip
    feed.add([NewEvent("drift", "d-1", "digits", detail={"signal": f"s{n % 9}"}) for n in range(600)])
    clock.turn(seconds=1)
    later = clock.now()
    clock.turn(seconds=1)
    feed.add(
        [
            NewEvent("rollout", model="digits", rollout="r8", detail={**detail, "release": f"digits@2.{n}.0"})
            for n in range(MOST_MARKS)
        ]
    )
    reader = sending.parts.timelines.reader
    titles = [
        one.title for one in reader.read(Scope.MODEL, "digits", begun, later).marks if one.kind is not MarkKind.DRIFT
    ]
    assert titles == ["digits@1.2.0 begins", "budget is spent"]


def event(number: int, kind: str, at_s: int, **detail: Any) -> EventView:
    at = START + timedelta(seconds=at_s)
    return EventView(number, "", at, at, kind, "", "digits", None, detail)


def test_marks_are_in_order_and_joined_by_step() -> None:
    events = [event(n, "drift", n * 60, signal="blur") for n in range(20)]
    marks = marks_of(list(reversed(events)), Scope.MODEL, "digits", 900)
    assert [one.n for one in marks] == [15, 5]
    assert marks_of(events, Scope.MODEL, "other", 900) == []


def test_classes_beyond_the_most_frequent_are_one() -> None:
    found = class_shares([tuple(range(20, 10, -1)), ()])
    assert [one.index for one in found] == [*range(MOST_CLASSES), -1]
    assert sum(one.share[0] or 0 for one in found) == pytest.approx(1, abs=1e-3)
    assert all(one.share[1] is None for one in found)


@pytest.mark.parametrize(
    ("span_s", "points", "step_s", "scale_s"),
    [
        (3600, 1500, 60, 60),
        (86_400, 97, 900, 900),
        (2_678_400, 400, 7200, 3600),
        (10, 2, 60, 60),
        (40_000_000, 30, 16 * 86_400, 86_400),
    ],
)
def test_steps_are_multiples_of_a_stored_scale(span_s: int, points: int, step_s: int, scale_s: int) -> None:
    assert step_length(span_s, points) == step_s
    assert scale_of(step_s, min(span_s, 80_000)) == scale_s
    assert len(begins(1_000_007, 1_000_007 + span_s, step_s)) <= points


def test_what_is_no_longer_kept_finely_is_read_coarsely() -> None:
    assert [scale_of(60, days * 86_400) for days in (1, 3, 40, 500)] == [60, 900, 3_600, 86_400]


def test_means_are_over_messages_and_short_steps_have_no_traffic() -> None:
    figures = {"cpu_ratio": FigureSums(4, 2.0, 0.9), "net_rx_bytes": FigureSums(4, 900.0, 500.0)}
    steps = [Step(START, (), SystemSums(4, figures))]
    at = int(START.timestamp())
    means, most = system_of(steps, [at, at + 900], 900)
    assert (means, most) == ({"cpu_ratio": [0.5, None], "net_rx_bytes_per_s": [1.0, None]}, {"cpu_ratio": [0.9, None]})
    assert "net_rx_bytes_per_s" not in system_of(steps, [at], 60)[0]
