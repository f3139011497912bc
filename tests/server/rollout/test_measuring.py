"""Rollouts with a quality gate from telemetry to verdict: the whole way but for the broker. What is stored, on both databases."""

import random
from collections.abc import Callable
from dataclasses import astuple, replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from edgefleet_protocol.ground_truth import Truth, added, class_part, pack
from edgefleet_protocol.ids import DeviceId, ProfileName
from edgefleet_protocol.messages import AssignmentState, Telemetry, Window
from edgefleet_protocol.sketch import LatencySketch
from edgefleet_server.rollout.model import Assignment, DeviceQuality, Member, Span
from edgefleet_server.rollout.preparation.metric_collector import MetricCollector
from edgefleet_server.rollout.spec.model import Metric, Spec
from edgefleet_server.rollout.spec.parser import parse_spec
from edgefleet_server.rollout.store import measurements
from tests.server.rollout.fleet_sim import MODEL, SimDevice, World
from tests.server.rollout.planner_gaps import NEW, OLD, STRATUM, whole

GATE: dict[str, Any] = {
    "metrics": [{"name": "latency_p95_ms", "non_inferior_rel": 0.1}],
    "before": "1h",
    "after": "5m",
    "watch": "1h",
}
STAGES = [{"name": "canary", "size": {"count": 20}, "soak": "1m"}, {"name": "rest", "size": {"percent": 100}}]
Speed = Callable[[SimDevice], float | None]
"""A device's latency in ms now; None: it sends nothing."""


def as_ever(device: SimDevice) -> float:
    """Every device has its own speed, whatever it runs."""
    return 10.0 + int(device.id[-1], 36) % 7


def slower(device: SimDevice) -> float:
    """The new release is half slower."""
    return as_ever(device) * (1.5 if device.running == "1.1.0" else 1.0)


def send(world: World, speed: Speed) -> None:
    """Let every device send a window of the minute before."""
    now = int(world.clock.now().timestamp())
    messages = []
    for device in world.devices.values():
        ms = speed(device)
        if ms is None or device.active is None:
            continue
        sketch = LatencySketch()
        for _ in range(40):
            sketch.add(ms / 1000)
        told = Window(
            t0=now - 60, length_s=60, model=MODEL, lane="active", sha256=device.active.sha256, version=device.running,
            n=40, latency=sketch.packed(),
        )  # fmt: skip
        messages.append(Telemetry(device=device.id, boot_id="b", seq=now, ts=1000 * now, windows=[told]))
    world.house.telemetry.ingest(messages)


def go(world: World, rollout: str, speed: Speed, *states: str, rounds: int = 40) -> str:
    """Go on minute by minute until the rollout is in one of these states; return its state then."""
    for _ in range(rounds):
        if world.view(rollout).state in states:
            break
        world.step()
        for _ in range(3):
            world.step([device for device in world.devices.values() if device.is_busy])
        world.tick()
        world.clock.turn(seconds=60)
        send(world, speed)
    return world.view(rollout).state


def furnish(world: World) -> World:
    """Enrol 42 devices on the old release, with two minutes of telemetry."""
    world.enrol(42)
    world.settle("1.0.0")
    world.release("1.1.0")
    for _ in range(2):
        world.clock.turn(seconds=60)
        send(world, as_ever)
    return world


@pytest.fixture
def ready(world: World) -> World:
    """A furnished world on SQLite."""
    return furnish(world)


def create(world: World, **gate: Any) -> str:
    """Start the rollout."""
    return world.create(
        stages=STAGES, gates={"quality": {**GATE, **gate}}, on_inconclusive={"after": "20m", "do": "pause"}
    )


def test_values_are_stored_as_they_were_taken_and_windows_are_read_newest_first(any_world: World) -> None:
    spans = {Metric.LATENCY_P95_MS: Span(0.1 + 0.2, 1e-17, None, 3.0), Metric.NONFINITE_RATE: Span()}
    now = any_world.clock.now()
    taken = [
        DeviceQuality(
            DeviceId(f"d-{i}"), ProfileName("x86"), i, "c" * i, now, now, spans, None if i else 0.25, 0.0, i > 0
        )
        for i in range(2)
    ]
    with any_world.house.db.session() as session:
        measurements.add(session, "r-1", taken)
        measurements.add(session, "r-2", [])
    with any_world.house.db.read() as session:
        assert measurements.measured(session, "r-1") == tuple(taken), "bit for bit"
        assert measurements.measured(session, "r-2") == ()
    for minute in range(5):
        told = Window(
            t0=int(now.timestamp()) + 60 * minute, length_s=60, model=MODEL, lane="active", sha256="1" * 64, version="1",
            n=minute, classes=[1, 2],
        )  # fmt: skip
        batch = Telemetry(device="d-0", boot_id="b", seq=minute, ts=0, windows=[told])
        any_world.house.telemetry.ingest([batch])
    found = any_world.house.telemetry.periods(["d-0", "d-1"], MODEL, now - timedelta(hours=1), windows=3)
    assert sorted(one.n for one in found["d-0"]) == [2, 3, 4]
    assert list(found) == ["d-0"]
    assert any_world.house.telemetry.periods(["d-0"], "other", now - timedelta(hours=1), windows=3) == {}
    assert any_world.house.telemetry.periods([], MODEL, now, windows=3) == {}


def week_of(after: str) -> Spec:
    metrics = [{"name": "inference_error_rate", "non_inferior_abs": 0.1}, {"name": "drift"}]
    return parse_spec(
        {
            "release": "digits@1.1.0",
            "selector": "",
            "stages": [{"name": "few", "size": {"count": 1}}, {"name": "rest", "size": {"percent": 100}}],
            "gates": {"quality": {"metrics": metrics, "before": "7d", "after": after}},
        }
    )


def taken_of(world: World, spec: Spec, began: datetime, earlier: timedelta, later: timedelta) -> DeviceQuality:
    """Return what is taken of a device, and of one that is compared with it, that sent windows so long around a moment."""
    device, control = DeviceId("d-new"), DeviceId("d-old")
    for name, digest in ((device, NEW.sha256), (control, OLD.sha256)):
        week = [(began - k * earlier, earlier, OLD.sha256) for k in range(timedelta(days=7) // earlier, 0, -1)]
        since = began - timedelta(minutes=20) if later > earlier else began
        if later > earlier:
            week = week[:-20]
        day = [(since + k * later, later, digest) for k in range(timedelta(days=1) // later)]
        keep(world, name, [*week, *day])
    one = Assignment(device, 0, STRATUM, AssignmentState.HEALTHY, gen=1, switched_at=began)
    members = tuple(Member(name, STRATUM) for name in (device, control))
    snapshot = replace(whole(random.Random(1)), spec=spec, members=members, assignments=(one,))
    with world.house.db.session() as session:
        (taken,) = MetricCollector(world.house.telemetry).take(session, snapshot, MODEL, world.clock.now()).measured
    assert taken.control == control
    return taken


def test_a_week_of_short_windows_and_a_day_of_shorter_ones_are_all_read(any_world: World) -> None:
    """A device that a rollout has reached sends a window a minute: those of a day must not crowd out the week before."""
    began = any_world.clock.now() - timedelta(hours=24)
    taken = taken_of(any_world, week_of("16h"), began, timedelta(minutes=5), timedelta(minutes=1))
    before, after = 1 / (7 * 24 * 12), 1 / (16 * 60)  # the first window of each period holds nothing but errors
    assert astuple(taken.spans[Metric.INFERENCE_ERROR_RATE]) == pytest.approx((before, after, before, after))
    assert (taken.drift, taken.control_drift) == (0.0, 0.0)


def test_a_long_window_across_the_switch_belongs_to_where_its_middle_is(world: World) -> None:
    """Metered devices send one an hour: one that began before the switch is all that there is of the hour after it."""
    began = world.clock.now() - timedelta(hours=24)
    gate = week_of("30m")
    taken = taken_of(world, gate, began, timedelta(minutes=1), timedelta(hours=1))
    assert taken.spans[Metric.INFERENCE_ERROR_RATE].after == 1.0, "it is the first of its length"


def keep(world: World, device: str, windows: list[tuple[datetime, timedelta, str]]) -> None:
    """Store windows of a device (begin, length, digest). The first one of each length holds nothing but errors."""
    first: set[timedelta] = set()
    told = []
    for t0, length, digest in windows:
        errors = 0 if length in first else 40
        first.add(length)
        told.append(
            Window(
                t0=int(t0.timestamp()), length_s=int(length.total_seconds()), model=MODEL, lane="active", sha256=digest, version="1",
                n=40, errors=errors, classes=[24, 16],
            )
        )  # fmt: skip
    messages = [
        Telemetry(device=device, boot_id="b", seq=start, ts=0, windows=told[start : start + 60])
        for start in range(0, len(told), 60)
    ]
    world.house.telemetry.ingest(messages)


def test_a_release_as_good_as_before_finishes_and_goes_back_when_it_turns_out_bad_later(ready: World) -> None:
    """And each decision can be made again from its stored evidence."""
    rollout = create(ready)
    assert go(ready, rollout, as_ever, "finished", "paused") == "finished"
    canary = ready.view(rollout).stages[0].strata[0]
    (metric,) = canary.quality
    assert (metric.verdict, metric.unit) == ("pass", "%")
    assert metric.threshold == pytest.approx(10)
    assert metric.devices >= 20
    assert metric.low is not None
    assert metric.high is not None
    assert metric.low < 0 < metric.high < 10
    decisions = ready.decisions(rollout)
    assert all(decision.agrees for decision in decisions)
    evidence = next(one.evidence for one in decisions if one.verdict == "advance" and one.stage == "canary")
    assert evidence["quality"]["measured"] == 20
    assert evidence["quality"]["unpaired"] == 0
    for device in list(ready.devices.values())[:12]:
        device.regress(reason="it went bad an hour later")
        ready.report(device)
    ready.clock.turn(seconds=61)
    ready.tick()
    assert go(ready, rollout, as_ever, "rolled_back", "rollback_incomplete") == "rolled_back"
    moves = [(one["from"], one["to"]) for one in ready.events(rollout) if one["kind"] == "rollout"]
    assert moves[-3:] == [("finished", "regressed"), ("regressed", "rolling_back"), ("rolling_back", "rolled_back")]
    assert "after it had finished" in ready.view(rollout).reason
    assert {one.running for one in ready.devices.values()} == {"1.0.0"}
    assert all(decision.agrees for decision in ready.decisions(rollout))


def measured(world: World, rollout: str) -> int:
    """Return how many values were taken."""
    with world.house.db.read() as session:
        return len(measurements.measured(session, rollout))


def test_one_that_was_reopened_and_waits_for_a_person_is_measured_on(ready: World) -> None:
    rollout = ready.create(
        stages=STAGES, gates={"quality": GATE}, on_fail="pause", on_inconclusive={"after": "20m", "do": "pause"}
    )
    for _ in range(40):
        if any(one.verdict == "advance" for one in ready.decisions(rollout)):
            break
        go(ready, rollout, as_ever, rounds=1)
    ready.service.promote(rollout, "ann", "the rest need not be waited for", None)
    assert go(ready, rollout, as_ever, "finished", rounds=4) == "finished"
    before = measured(ready, rollout)
    assert before < 42, "those of the last stage are not due yet"
    for device in list(ready.devices.values())[:12]:
        device.regress(reason="it went bad soon after")
        ready.report(device)
    ready.clock.turn(seconds=61)
    ready.tick()
    assert ready.view(rollout).state == "regressed"
    assert go(ready, rollout, as_ever, "rolled_back", rounds=10) == "regressed", "a person decides"
    assert measured(ready, rollout) > before


def test_a_slower_release_goes_back(ready: World) -> None:
    rollout = create(ready)
    assert go(ready, rollout, slower, "rolled_back", "finished", "paused") == "rolled_back"
    view = ready.view(rollout)
    assert (view.code, "latency_p95_ms is +" in view.reason) == ("quality_breach", True)
    assert {one.running for one in ready.devices.values()} == {"1.0.0"}
    assert len(ready.exposed(rollout)) == 20


def test_devices_that_send_nothing_let_nothing_pass(ready: World) -> None:
    rollout = create(ready)

    def silent(device: SimDevice) -> float | None:
        return None if device.running == "1.1.0" else as_ever(device)

    assert go(ready, rollout, silent, "paused", "finished") == "paused"
    view = ready.view(rollout)
    assert "0 of 20 devices have a value" in view.reason
    assert view.stages[0].strata[0].quality[0].verdict == "no_data"


def test_a_person_may_let_a_stage_pass_and_is_not_overruled_by_what_was_known(ready: World) -> None:
    rollout = ready.create(
        stages=STAGES, gates={"quality": GATE}, on_fail="pause", on_inconclusive={"after": "10h", "do": "pause"}
    )
    assert go(ready, rollout, slower, "paused", "finished") == "paused"
    ready.service.promote(rollout, "ann", "half slower is fine here", None)
    ready.tick()
    assert ready.view(rollout).state == "running"
    assert ready.view(rollout).stages[0].strength == "override"


def test_labels_that_show_worse_answers_stop_a_release_that_nothing_else_shows(ready: World) -> None:
    """Latency and errors are as ever; half an hour of labels a device says that every third answer is wrong."""
    gate = {"metrics": [{"name": "accuracy", "non_inferior_abs": 0.05}], "before": "4h", "after": "1h", "watch": "2h"}

    def label(right: Callable[[SimDevice], int]) -> None:
        now = int(ready.clock.now().timestamp())
        for device in ready.devices.values():
            if device.active is None:
                continue
            wrong = 10 - right(device)
            parts = [class_part((now - 900) // 3_600, "", 0, int(n < wrong)) for n in range(10)]
            told = Window(
                t0=now - 900, length_s=900, model=MODEL, lane="active", sha256=device.active.sha256, version=device.running,
                n=40, latency=[], truth=pack(Truth(parts=added(parts))),
            )  # fmt: skip
            ready.house.telemetry.ingest(
                [Telemetry(device=device.id, boot_id="b", seq=now, ts=1000 * now, windows=[told])]
            )

    def quarter(right: Callable[[SimDevice], int]) -> None:
        ready.clock.turn(seconds=900)
        label(right)

    for _ in range(4):
        quarter(lambda _: 9)
    stages = [{"name": "canary", "size": {"count": 20}, "soak": "1m"}, {"name": "rest", "size": {"percent": 100}}]
    rollout = ready.create(stages=stages, gates={"quality": gate}, on_inconclusive={"after": "1d", "do": "pause"})
    for _ in range(24):
        if ready.view(rollout).state in {"rolled_back", "rolling_back"}:
            break
        ready.step()
        for _ in range(3):
            ready.step([device for device in ready.devices.values() if device.is_busy])
        ready.tick()
        quarter(lambda device: 6 if device.running == "1.1.0" else 9)
    view = ready.view(rollout)
    assert view.state in {"rolled_back", "rolling_back"}
    assert "accuracy is" in view.stages[0].reason
