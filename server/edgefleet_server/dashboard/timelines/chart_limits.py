"""The limits that charts show: what objectives ask, and from where on rules of alerts say something. Pure.

Rules:
1. An objective is a limit where the chart is of what it counts: one of a model that holds everywhere on charts of that model, one of a
   group on the page of that group; one of a site or profile on none.
2. A latency objective is about a share of the answers, so its limit says which. It stands on the p95 and the p99.
3. A rule's threshold is a limit where the chart has the figure that the rule judges; a rule that is switched off has none.
4. What the kernel of a device does by itself (throttle, switch off) is a limit on its chart of temperature.
5. Where a chart is of several models, a limit names its model. A chart has at most MOST limits.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from edgefleet_protocol.drift.detector import FLEET_FLOOR
from edgefleet_protocol.heat_limits import WORDS
from edgefleet_server.dashboard.core.line_chart import Limit
from edgefleet_server.objectives.model import Indicator, Slo
from edgefleet_server.telemetry.timelines.model import LinesBy, Scope, Timeline
from edgefleet_terms.device_figures import size_unit

MOST: Final = 3
MIB: Final = 1024 * 1024
DISK: Final = "disk_free_bytes"


@dataclass(frozen=True, slots=True)
class Limits:
    """What is known of limits. rules: the thresholds of the rules that are switched on."""

    objectives: Sequence[Slo] = ()
    rules: Mapping[str, float] = field(default_factory=dict)


Known = Callable[[], Limits]
NO_LIMITS: Final = Limits()


def largest(timeline: Timeline, *keys: str) -> float:
    """Return the largest value of figures of the devices themselves; 0 where none was measured."""
    return max((value for key in keys for value in timeline.system.get(key, ()) if value is not None), default=0.0)


def limits_of(known: Limits, timeline: Timeline, chart: str) -> list[Limit]:
    """Return the limits of one chart of a timeline."""
    kind, _, place = chart.partition("-")
    if kind == "drift":
        return [Limit("least that counts", FLEET_FLOOR)]
    if kind == "disk" and timeline.scope is Scope.DEVICE:
        length = size_unit(largest(timeline, DISK))[1]
        return [replace(one, value=one.value * MIB / length) for one in _rule(known, "disk_full", "alert below")]
    if kind == "temperature":
        return [Limit(words, timeline.limits[key]) for key, words in WORDS.items() if key in timeline.limits]
    if timeline.scope is Scope.DEVICE and place.isdigit():
        model = timeline.lines[int(place)].key.partition(",")[0]
        of_failed = _rule(known, "error_share", "alert above")
        return (_of_model(known, timeline, model, kind, "") + (of_failed if kind == "failed" else []))[:MOST]
    models = _models(timeline)
    found = [
        one
        for model in models
        for one in _of_model(known, timeline, model, kind, f"{model}: " if len(models) > 1 else "")
    ]
    if kind == "failed" and timeline.scope is not Scope.GROUP and models:
        found += _rule(known, "model_error_share", "alert above")
    return found[:MOST]


def _models(timeline: Timeline) -> Sequence[str]:
    """Return the models that the lines of a timeline are of; none where they are mixed."""
    if timeline.scope is Scope.MODEL:
        return [timeline.name]
    return sorted({one.key for one in timeline.lines if one.key}) if timeline.by is LinesBy.MODEL else []


def _of_model(known: Limits, timeline: Timeline, model: str, kind: str, prefix: str) -> list[Limit]:
    where = (("group", timeline.name),) if timeline.scope is Scope.GROUP else ()
    mine = [one for one in known.objectives if one.model == model and one.where in {(), where}]
    if kind in {"p95", "p99", "latency"}:
        return [
            Limit(f"{prefix}objective: {100 * one.target:.6g} % within", one.threshold)
            for one in mine
            if one.indicator is Indicator.LATENCY and one.threshold is not None
        ]
    if kind == "failed":
        return [
            Limit(f"{prefix}objective", round(100 * one.allowed, 6))
            for one in mine
            if one.indicator is Indicator.SUCCESS
        ]
    return []


def _rule(known: Limits, name: str, words: str) -> list[Limit]:
    return [Limit(words, known.rules[name])] if name in known.rules else []
