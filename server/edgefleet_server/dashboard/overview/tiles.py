"""The figures of the fleet as small charts: requests, errors, latency, answers that are not finite, presence, drift. Pure.

A figure that nobody measured is shown as such: 0 of 0 is not "no errors".
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from edgefleet_server.dashboard.core.filters import duration, evidence, number
from edgefleet_server.dashboard.core.line_chart import Limit
from edgefleet_server.dashboard.timelines.charts import Chart
from edgefleet_server.fleet.health_state import Health
from edgefleet_server.objectives.model import Indicator, SloView
from edgefleet_server.telemetry.drift.views import ModelDrift, SignalDrift
from edgefleet_server.telemetry.signals.model import Scale

SPANS: Final[Mapping[str, str]] = {
    "15m": "Last 15 minutes", "1h": "Last hour", "6h": "Last 6 hours", "24h": "Last 24 hours", "7d": "Last 7 days", "30d": "Last 30 days",
}  # fmt: skip
OFFERED: Final = ("1h", "24h", "7d", "30d")
"""The others are those of a young fleet, which is shown from its beginning on."""
NOT_MEASURED: Final = "Not measured yet"
NOT_LATELY: Final = "Not measured lately"
LEAST_STEPS: Final = 2


@dataclass(frozen=True, slots=True)
class Tile:
    """One figure. value: "–" where nothing was measured; note: what it is compared with; is_bad: it is beyond its limit."""

    id: str
    title: str
    value: str
    unit: str
    note: str
    chart: Chart | None = None
    is_bad: bool = False
    shares: Sequence[tuple[str, float]] = ()


def tiles(
    charts: Sequence[Chart], objectives: Sequence[SloView], devices: Mapping[Health, int], drifts: Sequence[ModelDrift]
) -> list[Tile]:
    """Return the tiles. charts: of the fleet over time, all models together."""
    by_id = {one.id: one for one in charts}
    return [
        _requests(by_id.get("requests")),
        _errors(by_id.get("failed"), by_id.get("requests"), objectives),
        _latency(by_id.get("p95"), objectives),
        _not_finite(by_id.get("failures"), by_id.get("requests")),
        _presence(devices, by_id.get("online")),
        _drift(drifts, by_id.get("drifting")),
    ]


def _newest(chart: Chart | None) -> float | None:
    return None if chart is None else chart.newest[0]


def _requests(chart: Chart | None) -> Tile:
    value = _newest(chart)
    if chart is None or value is None:
        return Tile("requests", "Requests", "–", "", NOT_MEASURED)
    known = [one for one in chart.data[1] if one is not None]
    mean = sum(known) / len(known)
    note = "Steady" if not mean or abs(value / mean - 1) < 0.05 else f"{_percent(value, mean)} the mean"
    return Tile("requests", "Requests", _figure(value), "/s", note, chart)


def _percent(value: float, mean: float) -> str:
    change = value / mean - 1
    return f"{abs(change):.0%} {'above' if change > 0 else 'below'}".replace("%", " %")


def _errors(failed: Chart | None, requests: Chart | None, objectives: Sequence[SloView]) -> Tile:
    chart = failed or _flat(requests, "failed", "Failed answers", "%")
    value = _newest(chart)
    if value is None:
        return Tile("errors", "Error rate", "–", "", NOT_MEASURED)
    limits = [100 * (1 - one.target) for one in objectives if one.indicator is Indicator.SUCCESS]
    note = f"Objective {evidence(min(limits))} %" if limits else "No objective"
    chart = replace(chart, limits=[Limit("objective", min(limits))]) if chart and limits else chart
    return Tile("errors", "Error rate", _figure(value), "%", note, chart, bool(limits) and value > min(limits))


def _latency(chart: Chart | None, objectives: Sequence[SloView]) -> Tile:
    value = _newest(chart)
    if value is None:
        return Tile("p95", "Latency p95", "–", "", NOT_MEASURED)
    mine = [one for one in objectives if one.indicator is Indicator.LATENCY and one.threshold is not None]
    strictest = min(mine, key=lambda one: one.threshold or 0.0, default=None)
    note = "No objective"
    if strictest is not None:
        note = f"{strictest.model}: {evidence(strictest.target * 100)} % within {evidence(strictest.threshold)} ms"
        chart = replace(chart, limits=[Limit("objective", strictest.threshold or 0.0)]) if chart else None
    return Tile("p95", "Latency p95", _figure(value), "ms", note, chart)


def _not_finite(failures: Chart | None, requests: Chart | None) -> Tile:
    name = "non-finite"
    if failures is not None and name in failures.names:
        place = failures.names.index(name) + 1
        chart: Chart | None = replace(
            failures, id="nonfinite", title="Answers that are not finite", names=[name],
            data=[failures.data[0], failures.data[place]],
        )  # fmt: skip
    else:
        chart = _flat(requests, "nonfinite", "Answers that are not finite", "")
    if chart is None:
        return Tile("nonfinite", "Answers not finite", "–", "", NOT_MEASURED)
    total = sum(one for one in chart.data[1] if one)
    newest = chart.newest[0] or 0
    last_at = max((at or 0 for at, one in zip(chart.data[0], chart.data[1], strict=True) if one), default=0)
    note = (
        "None in this time"
        if not total
        else "Still coming in"
        if newest
        else f"The last {duration(chart.end - last_at)} ago"
    )
    return Tile("nonfinite", "Answers not finite", number(total), "", note, chart, newest > 0)


def _flat(of: Chart | None, name: str, title: str, unit: str) -> Chart | None:
    """Return a chart of zeros where there were requests: nothing of the kind happened."""
    if of is None:
        return None
    zeros = [None if all(column[n] is None for column in of.data[1:]) else 0 for n in range(len(of.data[0]))]
    return replace(of, id=name, title=title, unit=unit, names=[name], data=[of.data[0], zeros])


def _presence(devices: Mapping[Health, int], chart: Chart | None) -> Tile:
    """Return how many are online now, and how many were: no line without at least two samples."""
    total = sum(devices.values())
    away = devices.get(Health.OFFLINE, 0) + devices.get(Health.UNKNOWN, 0)
    if not total:
        return Tile("online", "Online", "–", "", "No devices")
    share = 100 * (total - away) / total
    # never rounded up to all of them
    value = f"{share:.0f}" if not away else f"{min(share, 99.9):.1f}"
    note = f"{number(total - away)} of {number(total)} device{'' if total == 1 else 's'} now"
    if chart is None or len(chart.data[0]) < LEAST_STEPS:
        bar = (("f-ok", round(share, 3)),)
        return Tile("online", "Online", value, "%", f"{note}; no history yet", None, away == total, bar)
    return Tile("online", "Online", value, "%", note, chart, away == total)


def _drift(drifts: Sequence[ModelDrift], counted: Chart | None) -> Tile:
    """Return the signal that is farthest from its reference, of models to which answers came since, and how many devices reported drift."""
    known = [
        (signal.psi, drift.model, drift, signal)
        for drift in drifts
        for signal in drift.signals
        if signal.state != "few" and not drift.is_old
    ]
    newest = _newest(counted)
    if not known and newest is None:
        return Tile("drift", "Drift", "–", "", NOT_LATELY if any(one.is_old for one in drifts) else NOT_MEASURED)
    if not known:
        return Tile(
            "drift",
            "Drift",
            _figure(newest or 0.0),
            "%",
            "Devices that report drift; no signal is judged",
            counted,
            bool(newest),
        )
    psi, model, drift, signal = max(known, key=lambda one: one[:2])
    drifting = sum(one.state == "drift" for _, _, _, one in known)
    note = f"{drifting} signal{'s drift' if drifting > 1 else ' drifts'}" if drifting else "No signal drifts"
    chart = counted if counted is not None and len(counted.data[0]) >= LEAST_STEPS else _history(drift, signal)
    return Tile("drift", "Drift", f"{psi:.2f}", "PSI", f"{note}; worst: {model} {signal.name}", chart, drifting > 0)


def _history(drift: ModelDrift, signal: SignalDrift) -> Chart | None:
    if drift.since is None or sum(one is not None for one in signal.history) < LEAST_STEPS:
        return None
    length = Scale(drift.scale).length
    # the judged period is the last two steps
    at = [int((drift.since + length * (n - len(signal.history) + 2)).timestamp()) for n in range(len(signal.history))]
    return Chart("psi", f"Drift of {signal.name}", "PSI", [signal.name], [at, signal.history], at[0], at[-1])


def _figure(value: float) -> str:
    return number(value) if value >= 100 else evidence(round(value, 2)) if value else "0"
