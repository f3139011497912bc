"""The gates of a rollout as panels: the new release's line beside the old one's, the limit, and what the gate says. Pure.

- A line is of all answers of a version in the fleet; the gate judges devices one by one. Both are shown.
- A limit and a range are drawn only where the spec sets a limit: relative ones follow the line of the old release.
- Evidence of failures is that of the stratum in which it is strongest, among those of the open stage.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from edgefleet_server.dashboard.core.line_chart import Band, Column, Limit
from edgefleet_server.dashboard.rollout_page.turn_marks import Turn, turn_marks
from edgefleet_server.dashboard.rollouts.gauges import EvidenceGauge, evidence_gauge
from edgefleet_server.dashboard.timelines.charts import Chart
from edgefleet_server.rollout.status.metric_views import MetricView
from edgefleet_server.rollout.status.reader import RolloutView, StageView, StratumView
from edgefleet_server.telemetry.timelines.model import MetricLine, Timeline

LATENCY: Final = "latency_p95_ms"
ERRORS: Final = "inference_error_rate"
RELATIVE: Final = "non_inferior_rel"
ABSOLUTE: Final = "non_inferior_abs"
LETTER: Final = 2.2
"""Percents of the width that a letter of a mark's label takes."""
_TITLES: Final = {ERRORS: "Error rate"}
Reader = Callable[[MetricLine], Column]
_STARTED: Final = ("exposing", "soaking", "judging", "held", "failed")


@dataclass(frozen=True, slots=True)
class GatePanel:
    """One gate. kind, word: of its pill. chart: None where nothing was measured; gauge: evidence, None for metrics; says: sentences."""

    id: str
    title: str
    kind: str
    word: str
    chart: Chart | None
    gauge: EvidenceGauge | None
    gauge_says: str
    says: Sequence[str]


@dataclass(frozen=True, slots=True)
class GateLine:
    """A gate in one line, beside the answer. kind, word: of its pill; at: where its evidence is on the page."""

    title: str
    kind: str
    word: str
    at: str


def gate_lines(rollout: RolloutView, panels: Sequence[GatePanel]) -> list[GateLine]:
    """Return every gate of a rollout: those with a panel, then the other metrics that its spec sets a limit for."""
    lines = [GateLine(one.title, one.kind, one.word, f"#gate-{one.id}-card") for one in panels]
    names = [one["name"] for one in (rollout.spec["gates"].get("quality") or {}).get("metrics", ())]
    for name in dict.fromkeys(names):
        if name != LATENCY:
            metric = _metric(rollout, name)
            kind, word = ("off", "Nothing known yet") if metric is None else _metric_pill(metric)
            lines.append(GateLine(_TITLES.get(name, name.replace("_", " ").capitalize()), kind, word, "#all-stages"))
    return lines


def gate_panels(rollout: RolloutView, old: str, timeline: Timeline | None) -> list[GatePanel]:
    """Return the panels of failures and latency. old: the version that most devices ran before, "" for none."""
    return [_failures(rollout, old, timeline), _latency(rollout, old, timeline)]


def _failures(rollout: RolloutView, old: str, timeline: Timeline | None) -> GatePanel:
    cell = strongest_of(rollout)
    metric = _metric(rollout, ERRORS)
    chart = _chart(rollout, old, timeline, "failed", "Failed answers", "%", failed_share)
    if chart is not None and metric is not None and metric.bound != RELATIVE:
        chart = _with_limit(chart, metric, scale=100.0)
    allowed = f"{100 * rollout.spec['gates']['install']['max_failure']:.3g} %"
    gauge = None
    if cell is not None and cell.e_abort is not None and cell.abort_at:
        gauge = evidence_gauge(cell.e_abort, cell.abort_at)
    kind, word = _failure_pill(rollout, gauge)
    says = [] if cell is None else [_failure_words(rollout, cell)]
    if (counts := _answer_words(rollout, old, timeline)) is not None:
        says.append(counts)
    return GatePanel("failures", "Failures", kind, word, chart, gauge, f"Evidence that over {allowed} fail", says)


def strongest_of(rollout: RolloutView) -> StratumView | None:
    """Return the stratum in which the evidence against the release is strongest, of the last stage that has begun."""
    begun = [one for one in rollout.stages if any(cell.e_abort is not None for cell in one.strata)]
    if not begun:
        return None
    known = [cell for stage in _counted(begun) for cell in stage.strata if cell.e_abort is not None]
    return max(known, key=lambda cell: (cell.e_abort or 0.0, cell.stratum))


def _counted(begun: Sequence[StageView]) -> Sequence[StageView]:
    """Return the stages that are open or failed, else the last one that has begun."""
    return [one for one in begun if one.state in _STARTED] or begun[-1:]


def _failure_pill(rollout: RolloutView, gauge: EvidenceGauge | None) -> tuple[str, str]:
    failed = rollout.counts.failed
    if any(stage.state == "failed" and not stage.stopped_by for stage in rollout.stages) and failed:
        return "bad", "Stopped it"
    if gauge is not None and gauge.is_reached:
        return "bad", "Evidence reached"
    if not rollout.counts.exposed:
        return "off", "Nothing known yet"
    if failed:
        return "warn", f"{failed} failed"
    return ("ok", "None failed") if rollout.counts.healthy else ("run", "None failed so far")


def _failure_words(rollout: RolloutView, cell: StratumView) -> str:
    counts = cell.counts
    if not counts.exposed:
        return "No device has accepted it."
    where = f" on {cell.stratum}" if len({one.stratum for stage in rollout.stages for one in stage.strata}) > 1 else ""
    bound = f" ({cell.bound.partition(': ')[2]})" if ": " in cell.bound else ""
    return f"{counts.failed} of {counts.exposed} devices failed{where}{bound}."


def _answer_words(rollout: RolloutView, old: str, timeline: Timeline | None) -> str | None:
    new_line, old_line = _line(timeline, rollout.version), _line(timeline, old)
    if new_line is None or not _answers_of(new_line):
        return None
    words = f"{_bad_of(new_line)} answers failed on {rollout.version}"
    return f"{words}, {_bad_of(old_line)} on {old}." if old_line is not None and _answers_of(old_line) else f"{words}."


def _answers_of(line: MetricLine) -> int:
    return sum(one or 0 for one in line.requests)


def _bad_of(line: MetricLine) -> str:
    bad = sum(one or 0 for kind in (line.errors, line.timeouts, line.nonfinite, line.crashes) for one in kind)
    answers = _answers_of(line)
    return f"{bad:,} of {answers:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def _latency(rollout: RolloutView, old: str, timeline: Timeline | None) -> GatePanel:
    chart = _chart(rollout, old, timeline, "latency", "Latency p95", "ms", lambda line: line.p95_ms)
    metric = _metric(rollout, LATENCY)
    if chart is not None and metric is not None:
        chart = _with_limit(chart, metric)
    if metric is None:
        has_chart = chart is not None
        says = ["The plan sets no limit for it." if has_chart else "No answers were measured yet."]
        return GatePanel("latency", "Latency p95", "off", "Not judged", chart, None, "", says)
    kind, word = _metric_pill(metric)
    return GatePanel("latency", "Latency p95", kind, word, chart, None, "", metric_words(metric))


def _metric_pill(metric: MetricView) -> tuple[str, str]:
    match metric.verdict:
        case "pass":
            return "ok", "Within limit"
        case "fail":
            return "bad", "Beyond limit"
        case "no_data":
            return "off", "Nothing known yet"
        case _:
            return "run", "Not sure yet"


def metric_words(metric: MetricView) -> list[str]:
    """Return what a metric says: the change, what it lies between, and its limit."""
    if metric.value is None:
        return [f"{metric.devices} devices with a value, {metric.missing} without."]
    unit, is_change = f" {metric.unit}" if metric.unit else "", metric.bound in (RELATIVE, ABSOLUTE)
    sign = "+" if is_change else ""
    value = f"{metric.value:{sign}.3g}{unit}"
    words = f"Change per device: {value}" if is_change else f"Mean over devices: {value}"
    if metric.low is not None and metric.high is not None:
        words += f" (between {metric.low:{sign}.3g} and {metric.high:{sign}.3g}{unit})"
    limit = f"{'at least' if metric.bound == 'min' else 'at most'} {metric.threshold:{sign}.3g}{unit}"
    return [f"{words}. Allowed: {limit}.", f"{metric.devices} devices with a value, {metric.missing} without."]


def _metric(rollout: RolloutView, name: str) -> MetricView | None:
    """Return a metric of the last stage that has one: that of the stratum where it is worst."""
    order = {"fail": 0, "hold": 1, "no_data": 2, "pass": 3}
    for stage in reversed(rollout.stages):
        found = [one for cell in stage.strata for one in cell.quality if one.name == name]
        if found:
            return min(found, key=lambda one: order.get(one.verdict, 1))
    return None


# ---- lines


def failed_share(line: MetricLine) -> Column:
    """Return the share of answers that failed in each step, in percent."""
    found: list[float | None] = []
    for n, *bad in zip(line.requests, line.errors, line.timeouts, line.nonfinite, line.crashes, strict=True):
        count = sum(one for one in bad if one is not None)
        found.append(None if n is None else round(100 * min(1.0, count / max(1, n, count)), 4))
    return found


def _line(timeline: Timeline | None, version: str) -> MetricLine | None:
    if timeline is None or not version:
        return None
    return next((one for one in timeline.lines if one.key == version), None)


def _chart(
    rollout: RolloutView,
    old: str,
    timeline: Timeline | None,
    chart_id: str,
    title: str,
    unit: str,
    read: Reader,
) -> Chart | None:
    if timeline is None:
        return None
    lines = [(f"{word} {name}", _line(timeline, name)) for word, name in (("new", rollout.version), ("old", old))]
    columns = {name: list(read(line)) for name, line in lines if line is not None}
    known = {name: column for name, column in columns.items() if any(one is not None for one in column)}
    if not any(name.startswith("new ") for name in known):
        return None
    moments = [int(one.timestamp()) for one in timeline.at]
    begin, end = (int(one.timestamp()) for one in (timeline.since, timeline.until))
    axis = min(begin, moments[0]), max(end, moments[-1])
    kept = [at for at in range(len(moments)) if any(column[at] is not None for column in known.values())]
    every: list[Column] = [moments, *known.values()]
    data: list[Column] = [[column[at] for at in kept] for column in every]
    marks = turn_marks(_turns(rollout), *axis, LETTER)
    return Chart(f"gate-{chart_id}", title, unit, list(known), data, *axis, marks, is_compared=True)


def _turns(rollout: RolloutView) -> Iterator[Turn]:
    """Yield when stages opened, and when the rollout stopped."""
    for stage in rollout.stages:
        if stage.opened_at is not None:
            yield Turn(stage.opened_at, "deploy", f"{stage.name} opened", label=stage.name)
        if stage.state == "failed" and stage.ended_at is not None:
            yield Turn(stage.ended_at, "rollback", f"{stage.name} stopped", " b", "stopped")


def _with_limit(chart: Chart, metric: MetricView, scale: float = 1.0) -> Chart:
    """Return a chart with the limit of its metric, and with the range that the gate puts the new release in.

    Of a change both stand relative to the newest figure of the old release.
    """
    low, high = metric.low, metric.high
    control: Column = chart.data[2] if len(chart.data) > 2 else []
    base = next((one for one in reversed(control) if one is not None), None)
    if metric.bound in (RELATIVE, ABSOLUTE):
        if base is None:
            return chart
        limit = _changed(base, metric.threshold, metric.bound, scale)
        ends = [
            None if one is None else [_shift(at, one, metric.bound, scale) for at in control] for one in (low, high)
        ]
    else:
        limit = scale * metric.threshold
        ends = [None if one is None else [scale * one for _ in chart.data[0]] for one in (low, high)]
    band = Band(ends[0], ends[1]) if ends[0] is not None and ends[1] is not None else None
    return replace(chart, limits=(Limit("limit", round(limit, 4)),), band=band)


def _shift(at: float | None, change: float, bound: str, scale: float) -> float | None:
    return None if at is None else max(0.0, _changed(at, change, bound, scale))


def _changed(value: float, change: float, bound: str, scale: float) -> float:
    return value * (1 + change / 100) if bound == RELATIVE else value + scale * change
