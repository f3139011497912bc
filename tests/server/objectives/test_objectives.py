"""Objectives from file to alert: devices send real windows, and the budget goes by exact counts."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from edgefleet_protocol.ids import ModelName, ProfileName, Version, target_path
from edgefleet_protocol.messages import Phase
from edgefleet_server.access.model import Role
from edgefleet_server.objectives.error_budget import Counts
from edgefleet_server.objectives.model import BudgetState, Slo
from edgefleet_server.objectives.slo_indicators import Indicators
from tests.server.alerting.test_drift_alerts import as_house, publish
from tests.server.alerting.test_rules import fires, is_calm
from tests.server.alerting.watched_fleet import WatchedDevice, WatchedFleet
from tests.server.objectives.test_openslo import latency, share, threshold
from tests.server.telemetry.test_ground_truth import Line

TARGET = target_path(ModelName("digits"), Version("1.0.0"), ProfileName("generic-x86_64-ort"))


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[WatchedFleet]:
    made = WatchedFleet(tmp_path / "server")
    publish(made, "digits")
    yield made
    made.house.close()


def put(fleet: WatchedFleet, document: dict[str, Any], name: str) -> None:
    """Set an objective."""
    document["metadata"] = {"name": name}
    fleet.house.parts.objectives.put(name, document, "ann")


def minutes(fleet: WatchedFleet, device: WatchedDevice, count: int, **figures: Any) -> None:
    """Let a device report once a minute, and the engine look."""
    for _ in range(count):
        fleet.house.clock.turn(seconds=30)
        device.measures(**figures)
        fleet.house.parts.objectives.tick()
        fleet.run(seconds=30)


def hours(fleet: WatchedFleet, device: WatchedDevice, count: int, **figures: Any) -> None:
    """Let a device report once an hour without a look in between."""
    for _ in range(count):
        fleet.house.clock.turn(hours=1)
        device.measures(**figures)


def test_a_budget_is_exact_and_burns_by_the_hour(fleet: WatchedFleet) -> None:
    put(fleet, share("success"), "ok")  # 99.5 % of requests
    book, device = fleet.house.parts.objectives, fleet.device()
    assert (book.slo("ok").slo.state, book.slo("ok").slo.left) == (BudgetState.NO_DATA, None)
    hours(fleet, device, 48, n=1000, errors=1)
    found = book.slo("ok").slo
    assert (found.good, found.total, found.state) == (47_952, 48_000, BudgetState.OK)
    assert found.left == pytest.approx(1 - 48 / (0.005 * 48_000))
    assert found.burns[3].long_burn == pytest.approx(0.2)
    uses = {(one.place, one.name): (one.bad, one.total, one.share) for one in book.uses("ok")}
    assert uses["profile", "generic-x86_64-ort"] == (48, 48_000, 1.0)
    assert {place for place, _ in uses} == {"version", "site", "profile"}
    assert book.uses("ok") is book.uses("ok")  # a live page asks every second
    history = [one for one in book.slo("ok").history if one.left is not None]
    assert history[-1].left == pytest.approx(found.left)
    assert sum(one.total for one in history) == 48_000
    fleet.house.clock.turn(days=27)
    hours(fleet, device, 3, n=1000)
    later = book.slo("ok").slo  # half of the first days have left the window
    assert later.total < 48_000
    assert (later.left or 0) > (found.left or 0)


def test_a_fast_burn_is_an_alert_within_minutes_and_one_failure_of_few_is_none(fleet: WatchedFleet) -> None:
    put(fleet, share("success"), "ok")
    device = fleet.device()
    minutes(fleet, device, 3, n=3, errors=0)
    minutes(fleet, device, 1, n=3, errors=1)
    is_calm(fleet, "slo_burn")  # 1 of 12 is 17 times too much, and says nothing
    is_calm(fleet, "slo_burn_slow")
    minutes(fleet, device, 5, n=100, errors=2)
    is_calm(fleet, "slo_burn")  # 4 times: the limit of an hour is 14.4, and of six hours 6
    minutes(fleet, device, 12, n=100, errors=20)
    fires(fleet, "slo_burn", "slo:ok")
    assert fleet.quiet() == {("slo_burn_slow", "slo:ok"): "ok burns fast"}  # it has nothing to add
    alert = fleet.open()["slo_burn", "slo:ok"]
    assert "burns its error budget" in alert.summary
    assert (alert.labels, alert.link) == ({"model": "digits", "slo": "ok"}, "/slos/ok")
    told = fleet.house.parts.fleet.feed.newest(limit=9, kinds=["alert"])
    models = {one.detail["rule"]: one.detail["alerts"][0]["model"] for one in told}
    assert models["slo_burn"] == "digits", "it is a mark on the charts of its model"
    assert fleet.house.parts.objectives.slo("ok").slo.state is BudgetState.BURNING
    hours(fleet, device, 6, n=2000)
    minutes(fleet, device, 3, n=1000)
    is_calm(fleet, "slo_burn")
    assert fleet.house.parts.objectives.slo("ok").slo.left == pytest.approx(1 - (1 + 10 + 240) / (0.005 * 16_712))


def test_a_slow_burn_is_a_warning_and_a_pace_that_lasts_is_none(fleet: WatchedFleet) -> None:
    put(fleet, share("success"), "ok")
    device = fleet.device()
    hours(fleet, device, 80, n=1000, errors=4)
    minutes(fleet, device, 1, n=1000, errors=4)
    is_calm(fleet, "slo_burn_slow")
    hours(fleet, device, 80, n=1000, errors=8)
    minutes(fleet, device, 1, n=1000, errors=8)
    fires(fleet, "slo_burn_slow", "slo:ok")
    is_calm(fleet, "slo_burn")


def test_a_burn_that_the_fast_rule_does_not_fire_at_is_an_alert_of_the_slow_one(fleet: WatchedFleet) -> None:
    put(fleet, share("success"), "ok")
    device = fleet.device()
    hours(fleet, device, 80, n=1000, errors=25)
    minutes(fleet, device, 1, n=1000, errors=25)
    is_calm(fleet, "slo_burn")  # 5 times: near the limit of 6, which only keeps an alert going
    fires(fleet, "slo_burn_slow", "slo:ok")
    minutes(fleet, device, 30, n=1000, errors=200)
    fires(fleet, "slo_burn", "slo:ok")
    assert list(fleet.quiet()) == [("slo_burn_slow", "slo:ok")]
    operator = fleet.house.client(Role.OPERATOR)
    operator.patch("/api/v1/alert-rules/slo_burn", json={"is_enabled": False})
    fleet.run(seconds=30)
    fires(fleet, "slo_burn_slow", "slo:ok")


def test_latency_counts_the_share_under_the_threshold(fleet: WatchedFleet) -> None:
    put(fleet, latency(), "fast")  # 99 % within 100 ms
    device = fleet.device()
    hours(fleet, device, 10, n=1000, p95_ms=40.0)
    hours(fleet, device, 1, n=100, p95_ms=140.0)
    found = fleet.house.parts.objectives.slo("fast").slo
    assert (found.good, found.total) == (10_000, 10_100)
    assert found.counted_at == pytest.approx(100, rel=0.01)
    assert found.left == pytest.approx(1 - 100 / 101)


def test_devices_that_are_away_use_the_budget_of_availability(fleet: WatchedFleet) -> None:
    put(fleet, share("availability"), "up")
    put(fleet, threshold("answer_age_s", 3600), "fresh")
    put(fleet, threshold("release_age_days", 30), "new")
    book = fleet.house.parts.objectives
    devices = [fleet.device() for _ in range(4)]
    for one in devices:
        one.runs("digits", Phase.COMMITTED, active_target=TARGET)
    devices[0].measures()
    assert (book.tick(), book.tick()) == (3, 0)  # once a minute, whoever asks
    devices[3].gone()
    fleet.house.clock.turn(minutes=1)
    book.tick()
    assert [(one.name, one.good, one.total) for one in book.slos()] == [("fresh", 2, 2), ("new", 8, 8), ("up", 7, 8)]
    fleet.house.parts.fleet.receiver.forget_presence()  # the server restarted: nothing is known of devices yet
    fleet.house.clock.turn(days=31)
    book.tick()
    assert [(one.name, one.good, one.total) for one in book.slos()] == [("fresh", 0, 1), ("new", 0, 4), ("up", 0, 0)]
    assert book.prune() == 6
    put(fleet, share("availability", site="lyon"), "up")
    assert book.slo("up").slo.total == 0


def test_a_sample_of_what_was_asked_before_is_not_counted(fleet: WatchedFleet, monkeypatch: pytest.MonkeyPatch) -> None:
    put(fleet, share("availability"), "up")
    book = fleet.house.parts.objectives
    fleet.device().runs("digits", Phase.COMMITTED, active_target=TARGET)
    count = Indicators.sample

    def changed(counted: Indicators, slo: Slo, now: datetime) -> Counts:
        monkeypatch.undo()
        put(fleet, share("availability", site="lyon"), "up")
        return count(counted, slo, now)

    monkeypatch.setattr(Indicators, "sample", changed)
    assert book.tick() == 0
    assert (book.tick(), book.slo("up").slo.total) == (1, 0)


def test_nothing_waits_for_the_report_of_an_objective_that_is_set(
    fleet: WatchedFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    operator, db, steps = fleet.house.client(Role.OPERATOR), fleet.house.parts.db, Indicators.steps

    def counted(indicators: Indicators, *asked: Any) -> Any:
        db.check_writing()  # raises where a transaction is open
        return steps(indicators, *asked)

    monkeypatch.setattr(Indicators, "steps", counted)
    document = latency() | {"metadata": {"name": "fast"}}
    for headers in ({}, {"if-match": "*"}):
        assert operator.put("/api/v1/slos/fast", json=document, headers=headers).status_code in (200, 201)
        fleet.house.clock.turn(minutes=1)


def test_labels_make_the_budget_of_accuracy_and_a_suspect_device_has_no_say(fleet: WatchedFleet) -> None:
    line = Line(as_house(fleet), 2)
    document = share("accuracy")
    document["spec"]["service"] = "pump"
    put(fleet, document, "right")
    line.label(line.devices[0], 999, 1, ago=timedelta(days=2))
    line.label(line.devices[1], 990, 10, ago=timedelta(days=1))
    fleet.house.clock.turn(minutes=11)  # the past is read again every ten minutes
    found = fleet.house.parts.objectives.slo("right").slo
    assert (found.good, found.total) == (1989, 2000)
    assert found.left == pytest.approx(1 - 11 / 10)
    assert found.state is BudgetState.SPENT
    fleet.house.parts.fleet.suspicion.mark(line.devices[1], "a failure that nobody else sees")
    fleet.house.clock.turn(minutes=11)
    assert fleet.house.parts.objectives.slo("right").slo.left == pytest.approx(1 - 1 / 5)


def test_a_model_that_is_slow_or_fails_everywhere_is_an_alert_and_one_bad_device_is_not(fleet: WatchedFleet) -> None:
    devices = [fleet.device() for _ in range(40)]
    for _ in range(30):
        fleet.house.clock.turn(hours=1)
        for one in devices:
            one.measures(n=20, p95_ms=20.0)
    fleet.house.clock.turn(minutes=50)
    for at, one in enumerate(devices):
        one.measures(n=20, p95_ms=90.0 if at == 0 else 20.0, errors=4 if at == 0 else 0)
    fleet.run(minutes=1)
    is_calm(fleet, "model_latency_up")
    is_calm(fleet, "model_error_share")
    fleet.house.clock.turn(hours=1)
    for one in devices:
        one.measures(n=20, p95_ms=27.0, errors=1)
    fleet.run(minutes=1)
    fires(fleet, "model_latency_up", "model:digits")
    fires(fleet, "model_error_share", "model:digits")
    assert fleet.open()["model_latency_up", "model:digits"].summary.startswith("p95 latency over all devices is 27")


def test_a_model_that_only_a_device_knows_is_no_alert_about_a_model(fleet: WatchedFleet) -> None:
    device = fleet.device()
    for model in ("made-up", "digits"):
        device.measures(n=1000, errors=500, model=model)
    fleet.run(minutes=1)
    fires(fleet, "model_error_share", "model:digits")


def test_the_age_of_answers_is_known_for_as_long_as_it_may_be(fleet: WatchedFleet) -> None:
    put(fleet, threshold("answer_age_s", 30 * 86_400), "fresh")
    book, device = fleet.house.parts.objectives, fleet.device()
    device.runs("digits", Phase.COMMITTED, active_target=TARGET)
    device.measures()
    for days in (20, 11):
        fleet.house.clock.turn(days=days)
        book.tick()
    assert (book.slo("fresh").slo.good, book.slo("fresh").slo.total) == (1, 2)


def test_the_api_sets_shows_and_removes_and_names_each_mistake(fleet: WatchedFleet) -> None:
    operator, viewer = fleet.house.client(Role.OPERATOR), fleet.house.client(Role.VIEWER)
    path, document = "/api/v1/slos/fast", latency() | {"metadata": {"name": "fast"}}
    assert operator.put(f"{path}?dry_run=true", json=document).status_code == 201
    assert viewer.get("/api/v1/slos").json()["total"] == 0
    assert viewer.put(path, json=document).status_code == 403
    made = operator.put(path, json=document)
    assert (made.status_code, made.json()["says"]) == (201, "99 % of answers within 100 ms, in 28 days")
    tag = made.headers["etag"]
    fleet.house.clock.turn(seconds=1)
    assert operator.put(path, json=document).status_code == 200
    assert operator.put(path, json=document, headers={"if-match": tag}).status_code == 412
    bad = latency(objectives=[{"op": "lte", "value": 100, "target": 7}])
    refused = operator.put("/api/v1/slos/digits-fast", json=bad).json()
    assert refused["code"] == "slo.bad_file"
    assert refused["errors"] == [
        {"path": "$.spec.objectives[0].target", "message": "expected a number from 0.01 to 0.999999, got 7"}
    ]
    for name in ("apiVersion", "metadata", "spec"):
        missing = operator.put(path, json={key: one for key, one in document.items() if key != name}).json()
        assert (missing["code"], missing["errors"][0]["path"]) == ("slo.bad_file", f"$.{name}")
    odd = operator.put(path, content='{"spec": {"\\ud83d": "\\u0000"}}', headers={"content-type": "application/json"})
    assert odd.json()["code"] == "slo.bad_file", odd.text
    assert operator.put(path, json=latency()).json()["code"] == "slo.name_mismatch"
    assert operator.put(path, json=document | {"spec": document["spec"] | {"service": "none"}}).status_code == 404
    detail = viewer.get(path).json()
    assert (detail["document"]["kind"], detail["slo"]["changed_by"]) == ("SLO", "test")
    assert viewer.get("/api/v1/slos?model=digits").json()["total"] == 1
    audit = fleet.house.client(Role.ADMIN).get("/api/v1/audit").text
    assert "/api/v1/slos/fast" in audit
    assert operator.delete(path).status_code == 204
    assert operator.delete(path).json()["code"] == "slo.unknown"


def test_devices_that_report_every_quarter_of_an_hour_are_judged_by_longer_windows(fleet: WatchedFleet) -> None:
    put(fleet, share("success"), "ok")
    book, device = fleet.house.parts.objectives, fleet.device()
    for _ in range(8):
        fleet.house.clock.turn(minutes=15)
        device.measures(n=100, errors=20, length_s=900)
    fast = book.slo("ok").slo.burns[0]
    assert (fast.long_s, fast.short_s, fast.state) == (3600, 1800, "burning")
    put(fleet, threshold("answer_age_s", 300), "fresh")
    assert book.tick() == 1
    assert (book.slo("fresh").slo.good, book.slo("fresh").slo.total) == (0, 0)  # no device runs the model
    device.runs("digits", Phase.COMMITTED, active_target=TARGET)
    fleet.house.clock.turn(minutes=4)
    assert book.tick() == 1
    fleet.house.clock.turn(minutes=17)
    assert book.tick() == 1
    # 4 and 21 minutes after the report's end, which is known to a quarter of an hour
    assert (book.slo("fresh").slo.good, book.slo("fresh").slo.total) == (1, 2)


def test_answers_that_are_reported_all_the_time_are_never_too_old(fleet: WatchedFleet) -> None:
    book, device = fleet.house.parts.objectives, fleet.device()
    device.runs("digits", Phase.COMMITTED, active_target=TARGET)
    fleet.house.clock.turn(minutes=7)  # reports do not begin with a quarter of an hour
    put(fleet, threshold("answer_age_s", 1000), "fresh")
    for _ in range(6):
        device.measures(length_s=900)
        for _ in range(3):
            book.tick()
            fleet.house.clock.turn(minutes=5)
    assert (book.slo("fresh").slo.good, book.slo("fresh").slo.total) == (18, 18)
