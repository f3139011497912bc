"""Which limits charts show: objectives of models, thresholds of rules, and the least drift that counts."""

from dataclasses import replace
from typing import Any

import pytest

from edgefleet_protocol.drift.detector import FLEET_FLOOR
from edgefleet_server.dashboard.core.line_chart import Limit
from edgefleet_server.dashboard.timelines.chart_limits import MOST, NO_LIMITS, Limits, limits_of
from edgefleet_server.objectives.model import Indicator, Slo
from edgefleet_server.telemetry.timelines.model import LinesBy, Scope
from tests.server.dashboard.test_timeline_pages import line, timeline

FAST = Slo("fast", "digits", Indicator.LATENCY, 0.95, 86_400, 80.0)
GOOD = Slo("good", "digits", Indicator.SUCCESS, 0.999, 86_400)
OTHER = Slo("other", "ocr", Indicator.LATENCY, 0.99, 86_400, 20.0)
LOCAL = replace(FAST, name="local", threshold=90.0, where=(("group", "halls"),))
RULES = {"model_error_share": 2.0, "error_share": 5.0, "disk_full": 200.0}
KNOWN = Limits([FAST, GOOD, OTHER, LOCAL, replace(FAST, indicator=Indicator.AVAILABILITY)], RULES)
WITHIN = Limit("objective: 95 % within", 80.0)


@pytest.mark.parametrize(
    ("more", "chart", "limits"),
    [
        ({}, "p95", [WITHIN]),
        ({}, "p99", [WITHIN]),
        ({}, "p50", []),
        ({}, "failed", [Limit("objective", 0.1), Limit("alert above", 2.0)]),
        ({}, "requests", []),
        ({}, "disk", []),  # the mean of all devices is no device
        ({}, "drift", [Limit("least that counts", FLEET_FLOOR)]),
        ({"by": LinesBy.SITE}, "p95", [WITHIN]),
        ({"name": "pump"}, "p95", []),
        (
            {"scope": Scope.GROUP, "name": "halls", "by": LinesBy.MODEL},
            "p95",
            [WITHIN, Limit("objective: 95 % within", 90.0)],
        ),
        ({"scope": Scope.GROUP, "name": "halls", "by": LinesBy.MODEL}, "failed", [Limit("objective", 0.1)]),
        ({"scope": Scope.FLEET, "name": "", "by": LinesBy.MODEL}, "p95", [WITHIN]),
        ({"scope": Scope.FLEET, "name": "", "by": LinesBy.SITE}, "p95", []),  # models are mixed
        ({"scope": Scope.DEVICE, "name": "d"}, "latency-0", [WITHIN]),
        ({"scope": Scope.DEVICE, "name": "d"}, "failed-0", [Limit("objective", 0.1), Limit("alert above", 5.0)]),
        ({"scope": Scope.DEVICE, "name": "d"}, "requests-0", []),
        (
            {"scope": Scope.DEVICE, "name": "d", "system": {"disk_free_bytes": [900.0 * 1024**2]}},
            "disk",
            [Limit("alert below", 200.0)],
        ),
        (
            {"scope": Scope.DEVICE, "name": "d", "system": {"disk_free_bytes": [30.0 * 1024**3, None]}},
            "disk",
            [Limit("alert below", 200 / 1024)],  # the chart is in GiB then
        ),
        ({"scope": Scope.DEVICE, "name": "d"}, "temperature", []),
        (
            {
                "scope": Scope.DEVICE,
                "name": "d",
                "limits": {"critical_at_celsius": 105.0, "throttles_at_celsius": 83.0},
            },
            "temperature",
            [Limit("throttles at", 83.0), Limit("switches off at", 105.0)],
        ),
    ],
)
def test_a_chart_has_the_limits_of_what_it_shows(more: dict[str, Any], chart: str, limits: list[Limit]) -> None:
    assert limits_of(KNOWN, timeline([line("digits", [5])], **more), chart) == limits


def test_limits_of_several_models_are_named_and_few() -> None:
    fleet = timeline([line("digits", [5]), line("ocr", [5])], LinesBy.MODEL, scope=Scope.FLEET, name="")
    assert [one.name for one in limits_of(KNOWN, fleet, "p95")] == [
        "digits: objective: 95 % within",
        "ocr: objective: 99 % within",
    ]
    many = Limits([replace(FAST, threshold=float(n)) for n in range(1, 9)])
    assert len(limits_of(many, fleet, "p95")) == MOST


def test_without_objectives_and_rules_there_are_no_limits() -> None:
    assert limits_of(NO_LIMITS, timeline([line("digits", [5])]), "failed") == []
