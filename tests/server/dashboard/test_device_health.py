"""What the page of a device makes of facts: its health, what would help, its history as strips, its slots, and its peers."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefleet_server.alerting.active_alerts.model import AlertState, AlertView
from edgefleet_server.alerting.alert_rules.fleet_facts import Severity
from edgefleet_server.alerting.alert_rules.rule_table import RULES
from edgefleet_server.dashboard.devices.health_panel import health_panel
from edgefleet_server.dashboard.devices.history_strips import strips
from edgefleet_server.dashboard.devices.peer_dots import peer_dots
from edgefleet_server.dashboard.devices.remedies import Act, remedies
from edgefleet_server.dashboard.devices.slot_pairs import slot_pairs
from edgefleet_server.events.model import EventView
from edgefleet_server.fleet.health_state import Health, HealthReason
from edgefleet_server.fleet.inventory.views import DesiredModel, DesiredView, DeviceView, ReportedModel
from edgefleet_server.fleet.model import DeviceStatus
from edgefleet_server.fleet.presence.model import Absence, PresenceSpan, spans
from edgefleet_server.rollout.status.explanation import explain
from edgefleet_server.telemetry.latency.views import LatencyCause, LatencyExplanation, LatencyRise
from edgefleet_server.telemetry_views import Latest, WindowView
from tests.server.fleet.house import START

NOW = START + timedelta(days=2)
MIN = timedelta(minutes=1)
TARGET, BEFORE = "ocr/2.2.1/orin.bundle", "ocr/2.2.0/orin.bundle"


def model(phase: str = "committed", **more: Any) -> ReportedModel:
    plain: dict[str, Any] = {
        "model": "ocr", "release": "ocr@2.2.1", "target": TARGET, "sha256": "c2" * 32, "phase": phase, "state": "healthy",
        "error_class": None, "error_code": "", "reason": "", "wanted_sha256": "c2" * 32, "previous_target": BEFORE, "progress_pct": 0,
        "slot": "a", "serving": True, "changed_at": NOW - 60 * MIN,
    }  # fmt: skip
    return ReportedModel(**(plain | more))


def device(*models: ReportedModel, **more: Any) -> DeviceView:
    wanted = DesiredView(7, START, START, [DesiredModel("ocr", "ocr@2.2.1", TARGET, "c2" * 32)])
    plain: dict[str, Any] = {
        "id": "d-1", "profile": "orin", "arch": "aarch64", "status": DeviceStatus.ONLINE, "labels": {}, "facts": {}, "enrolled_at": START,
        "last_seen": NOW, "cert_not_after": NOW + timedelta(days=91, hours=1), "free_mb": 2048, "agent_version": "0.1.0",
        "desired": wanted, "reported_gen": 7, "refused": None, "models": models or (model(),), "health": Health.HEALTHY,
    }  # fmt: skip
    return DeviceView(**(plain | more))


def alert(rule: str, severity: Severity = Severity.WARNING, **more: Any) -> AlertView:
    plain: dict[str, Any] = {
        "id": 1, "rule": rule, "title": rule.replace("_", " ").capitalize(), "subject": "model:ocr@d-1", "shown": "ocr on d-1",
        "state": AlertState.FIRING, "severity": severity, "summary": "p95 latency is 96 ms, usually 33 ms", "value": 2.9,
        "threshold": 1.5, "unit": "", "group": "", "since": NOW - 25 * MIN, "fired_at": NOW, "resolved_at": None, "suppressed_by": "",
        "acked_at": None, "acked_by": "", "ack_comment": "", "next_step": "", "link": "/devices/d-1", "evidence": (), "devices": ["d-1"],
        "labels": {"model": "ocr"},
    }  # fmt: skip
    return AlertView(**(plain | more))


def latest(n: int = 240, errors: int = 0, nonfinite: int = 0, **system: float) -> Latest:
    window = WindowView(
        "ocr", "active", "2.2.1", "c2" * 32, NOW, 60, NOW, n, errors, 0, nonfinite, 0, 61.0, 96.0, 99.0, (), 0, 0.0
    )
    return Latest(NOW, NOW, system, 0, 0, [window])


def rise(kind: str, verdict: str = "likely", **release: Any) -> LatencyExplanation:
    cause = LatencyCause(kind, verdict, 0.9, kind, "throttled clock: 0 % before, 45 % after", "share", 0, 0.45, (), ())
    others = [LatencyCause("release", release.get("verdict", "ruled_out"), 0, "Version", "", "", None, None, (), ())]
    causes = [cause] if kind == "release" else [cause, *others]
    said = "The p95 of ocr rose from 33 ms to 96 ms."
    risen = LatencyRise(NOW - 25 * MIN, NOW, 33, 96, 2.9, is_over=release.get("is_over", False))
    return LatencyExplanation("ocr", "d-1", START, NOW, 60, "rise", said, risen, "device", "", 1, 5, causes, "")


# ---- health


def test_an_alert_makes_a_healthy_device_one_to_look_at_and_comes_with_its_time() -> None:
    found = health_panel(device(), [alert("latency_up")], latest(), NOW)
    assert (found.kind, found.word) == ("warn", "Latency up")
    assert [(row.text, row.since) for row in found.rows] == [
        ("ocr: p95 latency is 96 ms, usually 33 ms", NOW - 25 * MIN)
    ]
    assert list(found.fine) == [
        "no failed request of 240",
        "all answers finite",
        "certificate valid for 91 days",
        "2.0 GiB of disk free",
    ]


def test_a_rise_that_lasts_and_a_throttled_clock_are_reasons_too() -> None:
    hot = latest(throttled_ratio=0.45, temperature_celsius=84.0)
    found = health_panel(device(), [], hot, NOW, [rise("throttling"), rise("load", is_over=True)])
    assert (found.kind, found.word) == ("warn", "degraded")
    assert [(row.text, row.since) for row in found.rows] == [
        ("ocr is slow: p95 is 96 ms, it was 33 ms", NOW - 25 * MIN),
        ("The clock is throttled by 45% at 84 °C", None),
    ]
    assert "The release is not the cause." in found.rows[0].more
    assert not [one for one in found.fine if "clock" in one or "°C" in one]
    loud = health_panel(device(), [alert("latency_up")], latest(), NOW, [rise("throttling")])
    assert [row.text for row in loud.rows] == ["ocr: p95 latency is 96 ms, usually 33 ms"]
    assert health_panel(device(), [], latest(throttled_ratio=0.0), NOW).fine[-1] == "clock not throttled"
    cool = health_panel(device(), [], latest(throttled_ratio=0.0, temperature_celsius=48.0), NOW)
    assert list(cool.fine[-2:]) == ["clock not throttled", "48 °C"]
    assert not [one for one in health_panel(device(), [], latest(temperature_celsius=95.0), NOW).fine if "°C" in one]


TRIPS = {"throttles_at_celsius": 83.0, "critical_at_celsius": 105.0}
HELD_BACK = (
    "warn",
    "The clock is throttled by 45% at 84 °C",
    "Heat or low voltage holds the processor back; heat does from 83 °C on.",
)
SWITCHES_OFF = ("bad", "It is 106 °C hot", "At 105 °C its kernel switches it off.")


@pytest.mark.parametrize(
    ("facts", "figures", "rows", "fine"),
    [
        (TRIPS, {"temperature_celsius": 48.0}, [], ["48 °C, throttles at 83 °C"]),
        (TRIPS, {"temperature_celsius": 48.0, "throttled_ratio": 0.0}, [], ["clock not throttled", "48 °C, throttles at 83 °C"]),
        (TRIPS, {"temperature_celsius": 83.0}, [("warn", "It is 83 °C hot", "From 83 °C on its kernel takes away clock.")], []),
        (TRIPS, {"temperature_celsius": 84.0, "throttled_ratio": 0.45}, [HELD_BACK], []),
        ({"critical_at_celsius": 105}, {"temperature_celsius": 106.0}, [SWITCHES_OFF], []),
        ({"critical_at_celsius": 105}, {"temperature_celsius": 106.0, "throttled_ratio": 0.0}, [SWITCHES_OFF], ["clock not throttled"]),
        ({"critical_at_celsius": 105}, {"temperature_celsius": 90.0}, [], []),  # where it throttles nobody knows
        ({"throttles_at_celsius": -1, "critical_at_celsius": "99"}, {"temperature_celsius": 106.0}, [], []),
        (TRIPS, {}, [], []),
    ],
)  # fmt: skip
def test_a_temperature_is_judged_by_what_the_kernel_does_at_it(
    facts: dict[str, Any], figures: dict[str, Any], rows: list[tuple[str, str, str]], fine: list[str]
) -> None:
    found = health_panel(device(facts=facts), [], latest(**figures), NOW)
    assert [(row.kind, row.text, row.more) for row in found.rows] == rows
    assert [one for one in found.fine if "°C" in one or "clock" in one] == fine
    assert found.kind == (rows[0][0] if rows else "ok")
    away = device(facts=facts, health=Health.OFFLINE)
    assert list(health_panel(away, [], latest(**figures), NOW).fine) == []


def test_a_hot_device_is_to_be_cooled_and_said_so_once() -> None:
    hot = remedies(device(), explain(device(), {}, NOW), [], is_hot=True)
    assert [one.title for one in hot.found] == ["Check its cooling and its power supply"]
    slow = remedies(device(), explain(device(), {}, NOW), [], [rise("throttling")], is_hot=True)
    assert [one.title for one in slow.found] == ["Check its cooling and its power supply"]
    assert not remedies(device(), explain(device(), {}, NOW), []).found


def test_the_worst_that_heat_does_goes_first() -> None:
    found = health_panel(device(facts=TRIPS), [], latest(temperature_celsius=106.0, throttled_ratio=0.6), NOW)
    assert [row.kind for row in found.rows] == ["bad", "warn"]
    assert (found.kind, found.word) == ("bad", "degraded")
    found = health_panel(device(), [alert("latency_up"), alert("error_share", Severity.CRITICAL)], latest(), NOW)
    assert (found.kind, found.word) == ("bad", "Error share")


@pytest.mark.parametrize("figures", [latest(n=0), latest(errors=1, nonfinite=1)])
def test_nothing_of_nothing_and_what_failed_is_not_fine(figures: Latest) -> None:
    found = health_panel(device(), [], figures, NOW)
    assert not [one for one in found.fine if "request" in one or "finite" in one]


@pytest.mark.parametrize("health", [Health.OFFLINE, Health.UNKNOWN])
def test_a_silent_device_has_nothing_that_is_fine(health: Health) -> None:
    away = device(health=health, health_reasons=[HealthReason(health, "It is away.", NOW - MIN)])
    found = health_panel(away, [alert("device_offline")], latest(), NOW)
    assert (found.kind, found.word, list(found.fine)) == ("off", health.value, [])
    assert len(found.rows) == (1 if health is Health.OFFLINE else 2)


def test_old_figures_say_nothing_of_now() -> None:
    old = NOW - timedelta(hours=3)
    assert health_panel(device(), [], replace(latest(), received_at=old), NOW).fine == []
    stale = replace(latest(), windows=[replace(one, received_at=old) for one in latest().windows])
    assert not [one for one in health_panel(device(), [], stale, NOW).fine if "request" in one or "finite" in one]


@pytest.mark.parametrize(
    ("rule", "health"),
    [("device_offline", Health.OFFLINE), ("device_suspect", Health.DEGRADED), ("update_failed", Health.DEGRADED)],
)
def test_an_alert_that_says_what_a_reason_says_is_not_said_twice(rule: str, health: Health) -> None:
    assert rule in RULES
    one = device(health=health, health_reasons=[HealthReason(health, "why", NOW)])
    assert [row.text for row in health_panel(one, [alert(rule)], latest(), NOW).rows] == ["why"]


@given(
    st.lists(st.sampled_from(["latency_up", "disk_full", "error_share", "device_suspect"]), max_size=4),
    st.sampled_from(Severity),
    st.sampled_from(Health),
)
def test_a_device_with_a_loud_alert_is_never_good(rules: list[str], severity: Severity, health: Health) -> None:
    said = [] if health is Health.HEALTHY else [HealthReason(health, "why")]
    found = health_panel(
        device(health=health, health_reasons=said), [alert(one, severity) for one in rules], latest(), NOW
    )
    assert (found.kind == "ok") == (health is Health.HEALTHY and not rules)
    assert found.rows or found.kind == "ok"


# ---- what would help


def offers(found: Any) -> list[tuple[str, list[Act]]]:
    return [(one.title, [each.act for each in one.offers]) for one in found.found]


def fixes(one: DeviceView, *alerts: AlertView, rises: tuple[LatencyExplanation, ...] = ()) -> Any:
    return remedies(one, explain(one, {}, NOW), alerts, rises)


def test_a_healthy_device_needs_nothing() -> None:
    found = fixes(device())
    assert (found.found, found.useless, found.count) == ([], [], "nothing to do")
    assert list(found.commands) == ["edgectl device explain d-1"]


def test_heat_is_no_matter_of_the_release() -> None:
    found = fixes(device(), alert("latency_up"), rises=(rise("throttling"),))
    assert offers(found) == [("Check its cooling and its power supply", [Act.OPEN, Act.SILENCE])]
    assert "No release mends it." in found.found[0].why
    assert found.useless == ["rolling back to ocr@2.2.0: the release is not the cause."]
    assert "edgectl model explain ocr --device d-1" in found.commands


def test_a_slow_release_goes_back_to_the_standby_slot() -> None:
    found = fixes(device(), rises=(rise("release"),))
    assert offers(found) == [("Go back to the release before", [Act.ROLLBACK, Act.OPEN])]
    assert found.found[0].offers[0].release == "ocr@2.2.0"
    assert not found.useless
    assert fixes(device(), rises=(rise("release", is_over=True),)).found == []


def test_a_release_that_failed_is_looked_into_and_not_tried_again() -> None:
    failed = device(model("failed", target=BEFORE, sha256="b0" * 32, reason="no memory"))
    found = fixes(failed)
    assert offers(found) == [("Find out why ocr@2.2.1 did not run", [Act.LOGS, Act.DIAGNOSTICS])]
    assert found.useless == ["deploying ocr@2.2.1 again: a release that failed on a device is not tried again."]


def test_a_device_that_is_away_is_asked_for_nothing() -> None:
    found = fixes(device(status=DeviceStatus.OFFLINE), alert("device_offline"))
    assert offers(found) == [("Check its power and its network", [Act.SILENCE])]
    assert "it hears nothing until it connects" in found.useless[0]
    assert fixes(device(status=DeviceStatus.REVOKED)).found == ()


def test_failing_answers_lead_to_their_inputs_and_back() -> None:
    found = fixes(device(suspect_since=NOW), alert("not_finite", Severity.CRITICAL), alert("disk_full"))
    assert offers(found) == [
        ("Look at the inputs of the answers that are not finite", [Act.CAPTURES, Act.ROLLBACK, Act.SILENCE]),
        ("Clear the suspicion", [Act.DIAGNOSTICS, Act.CLEAR]),
        ("Free some disk", [Act.DIAGNOSTICS, Act.SILENCE]),
    ]


def test_each_model_has_its_own_remedies() -> None:
    face = {"model": "face"}
    loud = [alert("latency_up", id=1), alert("latency_up", id=2, labels=face)]
    (slow,) = fixes(device(), *loud, rises=(rise("throttling"),)).found
    assert [one.alert.id for one in slow.offers if one.alert is not None] == [1]
    (other,) = fixes(device(), *loud[1:], rises=(rise("throttling"),)).found
    assert [one.act for one in other.offers] == [Act.OPEN]
    found = fixes(device(), alert("error_share", id=1), alert("error_share", id=2, labels=face)).found
    assert [one.alert.id for each in found for one in each.offers if one.alert is not None] == [1, 2]


# ---- history


def event(minutes: float, phase: str, target: str = TARGET, kind: str = "phase") -> EventView:
    at = NOW - minutes * MIN
    return EventView(int(10_000 - minutes), "d-1", at, at, kind, "", "ocr", None, {"phase": phase, "target": target})


def shown(
    *events: EventView,
    alerts: tuple[AlertView, ...] = (),
    presence: list[PresenceSpan] | None = None,
    **more: Any,
) -> dict[str, list[tuple[str, str]]]:
    one = device(**more)
    if presence is None:
        presence = spans(NOW - 60 * MIN, one.revoked_at or NOW, NOW - 90 * MIN, [], [])
    rows = strips(one, events, alerts, presence, NOW - 60 * MIN, NOW)
    for row in rows:
        edges = [one.x + one.width for one in row.segments]
        assert all(one.x >= edge - 0.5 for edge, one in zip(edges, row.segments[1:], strict=False)), row
    return {row.name: [(one.kind, one.title.partition(",")[0]) for one in row.segments] for row in rows}


def test_versions_and_troubles_follow_one_another() -> None:
    found = shown(event(50, "committed", BEFORE), event(30, "failed"), event(10, "committed"))
    assert found == {
        "Health": [("ok", "healthy"), ("warn", "ocr failed"), ("ok", "healthy")],
        "ocr": [("t", "2.2.0"), ("s", "2.2.1")],
        "Connection": [("t", "online")],
    }


def test_the_worst_of_one_time_is_shown() -> None:
    loud = alert("error_share", Severity.CRITICAL, since=NOW - 20 * MIN, resolved_at=NOW - 15 * MIN)
    away = alert("device_offline", since=NOW - 40 * MIN, resolved_at=NOW - 35 * MIN, state=AlertState.RESOLVED)
    found = shown(event(30, "rolled_back"), alerts=(loud, away))
    assert [kind for kind, _ in found["Health"]] == ["ok", "off", "ok", "warn", "bad", "warn"]
    assert [kind for kind, _ in found["Connection"]] == ["t", "off", "t"]


def test_an_absence_begins_when_the_device_went_not_when_its_worst_trouble_did() -> None:
    reasons = [
        HealthReason(Health.FAILING, "ocr does not run", NOW - 50 * MIN),
        HealthReason(Health.OFFLINE, "It is offline", NOW - 15 * MIN),
    ]
    found = strips(device(status=DeviceStatus.OFFLINE, health_reasons=reasons), [], [], [], NOW - 60 * MIN, NOW)
    (away,) = [one for row in found if row.name == "Connection" for one in row.segments if one.kind == "off"]
    assert (away.x, away.width) == (75.0, 25.0)


def test_what_was_never_heard_is_not_healthy() -> None:
    unheard = spans(NOW - 60 * MIN, NOW, NOW - 90 * MIN, [Absence(NOW - 60 * MIN, NOW, is_heard=False)], [])
    found = shown(status=DeviceStatus.UNKNOWN, presence=unheard)
    assert (found["Health"], found["Connection"]) == ([], [("u", "unknown")])
    assert strips(device(enrolled_at=NOW), [], [], [], NOW - MIN, NOW) == []


def test_connection_is_what_was_seen_and_nobody_is_healthy_unseen() -> None:
    gone = [Absence(NOW - 50 * MIN, NOW - 40 * MIN), Absence(NOW - 9 * MIN, NOW - 5 * MIN, is_heard=False)]
    seen = spans(NOW - 60 * MIN, NOW, NOW - 90 * MIN, gone, [(NOW - 20 * MIN, NOW - 9 * MIN)])
    found = shown(presence=seen)
    assert found["Connection"] == [
        ("t", "online"),
        ("off", "offline"),
        ("t", "online"),
        ("u", "unknown"),
        ("t", "online"),
    ]
    assert found["Health"] == [("ok", "healthy"), ("off", "offline"), ("ok", "healthy"), ("ok", "healthy")]
    assert shown(presence=spans(NOW - 60 * MIN, NOW, None, [], []))["Connection"] == [("u", "unknown")]
    flapping = [Absence(NOW - 50 * MIN, NOW - 10 * MIN, times=41)]
    assert ("warn", "flapping: away 41 times") in shown(
        presence=spans(NOW - 60 * MIN, NOW, NOW - 90 * MIN, flapping, [])
    )["Connection"]


def test_a_revoked_device_is_no_longer_healthy() -> None:
    found = shown(status=DeviceStatus.REVOKED, health=Health.REVOKED, revoked_at=NOW - 20 * MIN)
    assert found["Health"] == [("ok", "healthy"), ("off", "revoked")]
    assert found["Connection"] == [("t", "online"), ("off", "revoked")]
    gone = shown(status=DeviceStatus.REVOKED, health=Health.REVOKED, revoked_at=NOW - 90 * MIN)
    assert gone["Health"] == [("off", "revoked")]


def test_an_alert_of_little_weight_has_its_own_colour() -> None:
    found = shown(alerts=(alert("error_share", Severity.INFO, since=NOW - 20 * MIN),))
    assert [kind for kind, _ in found["Health"]] == ["ok", "run"]


MOMENTS = st.integers(0, 300)


@given(
    st.lists(st.tuples(MOMENTS, st.sampled_from(["committed", "probation", "failed", "rolled_back"])), max_size=8),
    st.lists(st.tuples(MOMENTS, MOMENTS, st.sampled_from(Severity)), max_size=4),
)
def test_segments_fill_their_strip_and_never_overlap(
    said: list[tuple[int, str]], rung: list[tuple[int, int, Severity]]
) -> None:
    alerts = tuple(
        alert("error_share", severity, since=NOW - max(pair) * MIN, resolved_at=NOW - min(pair) * MIN)
        for *pair, severity in rung
    )
    events = [event(minutes, phase, BEFORE if n % 2 else TARGET) for n, (minutes, phase) in enumerate(said)]
    found = shown(*events, alerts=alerts)
    assert found["Health"]
    runs = found.get("ocr", [])
    assert [one for one in runs if one[0] == "s"] == [one for one in runs[-1:] if one[1] == "2.2.1"]


# ---- slots and peers


def test_slots_say_what_a_rollback_would_run() -> None:
    sizes = {TARGET: 2_200_000}
    (pair,) = slot_pairs(device(), sizes.get)
    assert (pair.active.name, pair.active.is_active, pair.active.size) == ("A", True, 2_200_000)
    assert (pair.standby.name, pair.standby.release, pair.standby.size) == ("B", "ocr@2.2.0", None)
    assert pair.rollback == "ocr@2.2.0"
    (empty,) = slot_pairs(device(model(previous_target="", serving=False)), sizes.get)
    assert (empty.standby.release, empty.rollback, empty.active.note) == ("", "", "It does not answer now")


def test_one_other_device_is_no_comparison() -> None:
    assert peer_dots("ocr", 96.0, {"d-2": 31.0}) is None
    assert peer_dots("ocr", None, {"d-2": 31.0, "d-3": 32.0}) is None


def test_a_slow_device_stands_apart() -> None:
    found = peer_dots("ocr", 96.0, {f"d-{n}": 27.0 + n for n in range(9)})
    assert found is not None
    assert (found.median_ms, found.others, found.is_apart) == (31.0, 9, True)
    assert found.label == "9 other devices, from 27 ms to 35 ms; this one 96 ms"
    assert [one.label for one in found.ticks] == ["40", "60", "80"]


@given(st.floats(0.01, 1e5), st.lists(st.floats(0.01, 1e5), min_size=2, max_size=20))
def test_dots_stay_on_the_line(own: float, others: list[float]) -> None:
    found = peer_dots("ocr", own, {str(n): one for n, one in enumerate(others)})
    assert found is not None
    assert all(
        0 <= at <= 100 for at in [*(one.at for one in (*found.dots, found.own)), *(one.at for one in found.ticks)]
    )
