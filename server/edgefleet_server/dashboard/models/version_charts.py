"""The charts of a model's page: a line a version, the newest first in each, so that a version has one colour on the whole page. Pure.

Rules:
1. Every chart has the same versions in the same order, also one of which it has no figure, and the same axis of time.
2. The drift of a version is that of its signal that is farthest from its reference, step by step.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from edgefleet_server.dashboard.core.line_chart import Column
from edgefleet_server.dashboard.timelines.charts import Chart
from edgefleet_server.telemetry.drift.views import ModelDrift
from edgefleet_server.telemetry.signals.model import Scale

MOST_VERSIONS: Final = 6
LATENCY: Final = "p95"
ERRORS: Final = "failed"
NONFINITE: Final = "nonfinite"
DRIFT: Final = "drift"
TITLES: Final = {ERRORS: "Error rate", NONFINITE: "Not finite answers", DRIFT: "Drift"}
SHOWN: Final = (LATENCY, ERRORS, NONFINITE, DRIFT)


@dataclass(frozen=True, slots=True)
class ModelCharts:
    """The charts of the page, None of what has no figures, and the others."""

    latency: Chart | None
    errors: Chart | None
    nonfinite: Chart | None
    drift: Chart | None
    others: Sequence[Chart]

    @property
    def shown(self) -> Sequence[Chart]:
        """Those that there are."""
        return [one for one in (self.latency, self.errors, self.nonfinite, self.drift) if one is not None]


def order_of(published: Sequence[str], live: Sequence[str], seen: Sequence[str]) -> list[str]:
    """Return the versions that have a line or a bar, the newest first. published: the newest first; live, seen: devices run it, or ran it.

    Versions that are not in the list of the published ones, which is a page of them, come last.
    """
    wanted = {*live, *seen}
    known = [one for one in published if one in wanted]
    return [*known, *sorted(one for one in wanted if one not in published)]


def model_charts(
    charts: Sequence[Chart],
    order: Sequence[str],
    drift: Mapping[str, ModelDrift],
) -> ModelCharts:
    """Return the charts of a timeline as the page has them. order: of versions, empty where lines are not of versions."""
    by_id = {one.id: one for one in charts}
    shown = order[:MOST_VERSIONS]
    found: dict[str, Chart] = {
        name: _arranged(by_id[name], shown) for name in (LATENCY, ERRORS, NONFINITE) if name in by_id
    }
    axis = next(iter(charts), None)
    mine = None if axis is None or not shown else _drift(drift, shown, axis)
    found_drift = mine if mine is not None else by_id.get(DRIFT)
    if found_drift is not None:
        found[DRIFT] = found_drift
    found = {name: replace(one, title=TITLES.get(name, one.title)) for name, one in found.items()}
    return ModelCharts(
        latency=found.get(LATENCY),
        errors=found.get(ERRORS),
        nonfinite=found.get(NONFINITE),
        drift=found.get(DRIFT),
        others=[one for one in charts if one.id not in SHOWN],
    )


def _arranged(chart: Chart, order: Sequence[str]) -> Chart:
    """Return a chart with the versions in an order, also those without figures; as it is where its lines are none of these."""
    columns = dict(zip(chart.names, chart.data[1:], strict=True))
    if not order or not set(columns) & set(order):
        return chart
    nothing: Column = [None] * len(chart.data[0])
    names = [*order, *(name for name in columns if name not in order)][:MOST_VERSIONS]
    return replace(chart, names=names, data=[chart.data[0], *(columns.get(name, nothing) for name in names)])


def _drift(drift: Mapping[str, ModelDrift], order: Sequence[str], axis: Chart) -> Chart | None:
    steps = {version: _steps(drift[version], axis.begin, axis.end) for version in order if version in drift}
    moments = sorted({at for of_version in steps.values() for at in of_version})
    if not moments:
        return None
    columns: list[Column] = [[steps.get(version, {}).get(at) for at in moments] for version in order]
    return replace(
        axis, id=DRIFT, title="Drift", unit="PSI", names=list(order), data=[moments, *columns], is_of_versions=True
    )


def _steps(found: ModelDrift, begin: int, end: int) -> dict[int, float]:
    """Return, by the beginning of each step, how far the farthest signal was from its reference."""
    if found.since is None:
        return {}
    length_s = int(Scale(found.scale).length.total_seconds())
    since_s = int(found.since.timestamp())
    steps: dict[int, float] = {}
    for one in found.signals:
        for number, psi in enumerate(one.history):
            # the judged period is the last two steps
            at = since_s + length_s * (number - len(one.history) + 2)
            if psi is not None and begin <= at <= end:
                steps[at] = max(steps.get(at, 0.0), psi)
    return steps
