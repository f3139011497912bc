"""Alerts in words: the sentence at the top, what ends one, what happened to it, which chart shows it."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from edgefleet_server.alerting.active_alerts.model import AlertCare, AlertCounts, AlertState, AlertView
from edgefleet_server.alerting.alert_rules.fleet_facts import Facts, ModelTotals, Severity
from edgefleet_server.alerting.alert_rules.model_fleet_rules import model_latency_up
from edgefleet_server.alerting.alert_rules.rule_table import RULES
from edgefleet_server.dashboard.alerts.alert_words import (
    chart_of,
    ends_when,
    figure_of,
    headline,
    limit_of,
    story,
    strips,
)
from edgefleet_server.dashboard.timelines.charts import SPANS, Chart
from edgefleet_server.telemetry.timelines.model import Scope

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)


def alert(rule: str = "latency_up", minutes: float = 48, **more: Any) -> AlertView:
    since = NOW - timedelta(minutes=minutes)
    made = AlertView(
        id=1, rule=rule, title="", subject="", shown="cam", state=AlertState.FIRING, severity=Severity.WARNING, summary="is slow",
        value=2.0, threshold=1.5, unit="times its usual", group="", since=since, fired_at=since + timedelta(minutes=1),
        resolved_at=None, suppressed_by="", acked_at=None, acked_by="", ack_comment="", next_step="", link="", evidence=[],
        devices=["d-1"], labels={"device": "d-1", "model": "digits"},
    )  # fmt: skip
    return replace(made, **more)


def ago(minutes: float) -> datetime:
    return NOW - timedelta(minutes=minutes)


def counts(suppressed: int = 0, pending: int = 0, **firing: int) -> AlertCounts:
    return AlertCounts(firing, suppressed, pending)


@pytest.mark.parametrize(
    ("of", "care", "kind", "title", "lead"),
    [
        (counts(), AlertCare(None, 0), "ok", "No alert is firing", "No rule that is switched on has found anything."),
        (counts(suppressed=2), AlertCare(None, 0), "ok", "No alert is firing", "2 suppressed."),
        (counts(warning=1), AlertCare(ago(47), 1), "warn", "1 alert is firing for 47 min", "1 warning; nobody has acknowledged it yet."),
        (counts(warning=3), AlertCare(NOW, 2), "warn", "3 alerts are firing", "3 warnings; 2 are not acknowledged yet."),
        (counts(info=3), AlertCare(ago(1), 0), "run", "3 alerts are firing; the oldest for 1 min", "3 info; each is taken care of."),
        (
            counts(critical=1, warning=1, pending=1), AlertCare(ago(47), 1), "bad",
            "2 alerts are firing; the oldest for 47 min", "1 critical, 1 warning; 1 pending; 1 is not acknowledged yet.",
        ),
    ],
)  # fmt: skip
def test_the_page_begins_with_a_sentence(of: AlertCounts, care: AlertCare, kind: str, title: str, lead: str) -> None:
    assert headline(of, care, NOW) == (kind, title, lead)


def test_each_rule_says_what_ends_its_alerts() -> None:
    for name, rule in RULES.items():
        assert ends_when(alert(name, unit=rule.unit)).startswith("It ends"), name
    assert ends_when(alert()) == "It ends by itself when the figure is clearly below 1.5 times its usual."
    low = alert("server_disk_full", value=4, threshold=10)
    assert ends_when(low) == "It ends by itself when the figure is clearly above 10 percent free for 1 min."
    assert ends_when(alert(state=AlertState.RESOLVED)) == ""


def test_the_story_is_newest_first() -> None:
    one = alert(acked_at=NOW - timedelta(minutes=9), acked_by="ann", ack_comment="on it", resolved_at=NOW)
    assert [(line.kind, line.what, line.why) for line in story(one)] == [
        ("ok", "It ended", "It lasted 48 min."),
        ("run", "ann takes care of it", "on it"),
        ("warn", "It fires", "The condition had held for 1 min."),
        ("off", "Its condition began", "is slow"),
    ]


def test_a_chart_covers_the_time_of_the_alert() -> None:
    found = figure_of(alert(), SPANS, NOW)
    assert found is not None
    assert (found.scope, found.name, found.span, found.model) == (Scope.DEVICE, "d-1", "6h", "digits")
    assert figure_of(alert(minutes=2), SPANS, NOW).span == "1h"  # type: ignore[union-attr]
    assert figure_of(alert("device_offline"), SPANS, NOW) is None
    assert figure_of(alert(minutes=90 * 1440), SPANS, NOW) is None
    assert figure_of(alert("drift", labels={}), SPANS, NOW) is None


def test_a_limit_of_latency_is_a_multiple_of_what_is_usual() -> None:
    totals = ModelTotals("digits", 1000, 0, 40.0, 10_000, 20.0, 7)
    (found,) = model_latency_up(Facts(NOW, totals=[totals]), 1.3)
    assert limit_of(alert("model_latency_up", summary=found.summary, threshold=found.limit)) == 26.0
    assert limit_of(alert("model_latency_up", summary="is slow")) is None
    assert limit_of(alert("error_share", summary=found.summary)) is None


def test_strips_show_when_each_rule_fired() -> None:
    day = 1440.0
    ended = alert(minutes=15 * day, resolved_at=NOW - timedelta(days=14))
    found = strips([alert(), ended, alert(minutes=80 * day, resolved_at=NOW - timedelta(days=70))], NOW)
    assert list(found) == ["latency_up"]
    first, last = found["latency_up"]
    assert (round(first.left), round(first.width, 1)) == (50, 3.3)
    assert last.left <= 99.4
    assert last.left + last.width <= 100.1
    assert strips([alert(fired_at=None)], NOW) == {}


def test_the_chart_of_an_alert_is_of_its_own_model() -> None:
    def drawn(name: str, title: str) -> Chart:
        return Chart(name, title, "", ["p95"], [[0], [1.0]], 0, 1)

    other, own = drawn("latency-0", "digits-2: latency"), drawn("latency-1", "digits: latency")
    found = figure_of(alert(), SPANS, NOW)
    assert found is not None
    assert chart_of(found, [drawn("requests-0", "digits: requests"), other, own]) is own
    assert chart_of(found, [other]) is None
    disk, fleet = figure_of(alert("disk_full"), SPANS, NOW), figure_of(alert("model_latency_up"), SPANS, NOW)
    assert disk is not None
    assert fleet is not None
    assert chart_of(disk, [own, drawn("disk", "Free disk")]) == drawn("disk", "Free disk")
    assert chart_of(fleet, [drawn("p95", "Latency p95")]) == drawn("p95", "Latency p95")
