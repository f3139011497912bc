"""How a rollout was stopped, as a chart: the evidence against the release at each decision, and what happened meanwhile. Pure."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from edgefleet_server.dashboard.core.line_chart import Column, Limit, ScaleKind
from edgefleet_server.dashboard.rollout_page.turn_marks import Turn, turn_marks
from edgefleet_server.dashboard.timelines.charts import Chart
from edgefleet_server.rollout.status.decision_views import DecisionView

MOST_STRATA: Final = 6
LETTER: Final = 0.9
"""Percents of the width that a letter takes, on a phone two and a half times as much."""


def stop_chart(decisions: Sequence[DecisionView], turns: Sequence[Turn], until: datetime) -> Chart | None:
    """Return the chart, a line a stratum, the one with the most evidence first; None with fewer than two moments of evidence.

    decisions: in any order; what was found holds until the next decision about the stratum. until: the end of the rollout.
    """
    found: dict[str, dict[int, float]] = {}
    at_most = 0.0
    for one in sorted(decisions, key=lambda one: one.at):
        value, limit = one.figures.get("e_abort"), float(one.figures.get("abort_at") or 0.0)
        if value is None or not limit or float(value) <= 0:
            continue
        at_most = max(at_most, limit)
        found.setdefault(one.stratum, {})[int(one.at.timestamp())] = float(value)
    moments = sorted({at for mine in found.values() for at in mine})
    if len(moments) < 2:
        return None
    first, last = moments[0], max(moments[-1], int(until.timestamp()))
    strata = sorted(found, key=lambda name: (-max(found[name].values()), name))[:MOST_STRATA]
    times = [*moments, last] if last > moments[-1] else moments
    columns: list[Column] = [_held(found[name], times) for name in strata]
    marks = turn_marks(turns, first, last, LETTER)
    limits = (Limit("stops at", at_most),)
    return Chart(
        "stop", "Evidence that the release is worse", "", strata, [times, *columns], first, last, marks,
        limits=limits, scale=ScaleKind.LOG,
    )  # fmt: skip


def is_enough(chart: Chart) -> bool:
    """Return whether the evidence reached what stops a release; else another rule, or a person, did."""
    return any(one is not None and one >= chart.limits[0].value for column in chart.data[1:] for one in column)


def _held(known: dict[int, float], times: Sequence[int]) -> list[float | None]:
    held: float | None = None
    column = []
    for at in times:
        held = known.get(at, held)
        column.append(held)
    return column
