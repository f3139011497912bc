"""How soon a rollout stops a bad release: the curve over devices, its median, and the chance at the end of each stage. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from edgefleet_cli.core import api
from edgefleet_cli.render.braille_chart import Chart, Line, Sign
from edgefleet_cli.render.format import counted, text
from edgefleet_cli.render.output import Column, Sheet

MEDIAN, STAGE_END = "▼", "╷"
MOST_LINES: Final = 4
_TICKS: Final = 4


class StageChance(NamedTuple):
    """One stage of one profile. stopped: the chance that the release has been stopped at its end, or after the last device that was
    followed (is_least).
    """

    stage: str
    profile: str
    devices: int
    stopped: float | None
    is_least: bool = False

    @property
    def chance(self) -> str:
        """The chance in words."""
        return "-" if self.stopped is None else f"{'at least ' if self.is_least else ''}{percent(self.stopped)}"


def percent(share: float) -> str:
    """Return a chance as a percentage that never says 0 of what may happen, nor 100: what was added up is rounded."""
    if 0 < share < 0.005:
        return "<1 %"
    return ">99 %" if share >= 0.995 else f"{100 * share:.0f} %"


SHEET: Sheet[StageChance] = Sheet(
    "stages with devices",
    [
        Column("stage", lambda s: s.stage, keep=True),
        Column("profile", lambda s: s.profile),
        Column("devices", lambda s: text(s.devices), right=True),
        Column("stopped by then", lambda s: s.chance, right=True),
    ],
    lambda s: f"{s.stage}/{s.profile}",
)


def populations(plan: api.rollout.Plan) -> dict[str, int]:
    """Return how many devices of each profile get the release at the end."""
    found: dict[str, int] = {}
    for stage in plan.stages:
        for cell in stage.strata:
            found[cell.stratum] = max(found.get(cell.stratum, 0), cell.cumulative)
    return {name: count for name, count in found.items() if count}


def stage_chances(plan: api.rollout.Plan, curves: Mapping[str, Sequence[float]]) -> list[StageChance]:
    """Return the chance at the end of each stage; curves: by profile, of 0, 1, … devices."""
    return [
        _chance(text(stage.name), text(cell.stratum), cell.cumulative, curves[cell.stratum])
        for stage in plan.stages
        for cell in stage.strata
        if cell.stratum in curves
    ]


def curve_chart(
    plan: api.rollout.Plan, curves: Mapping[str, Sequence[float]], medians: Mapping[str, int | None], bad_pct: int
) -> Chart:
    """Return the curves as a chart over devices: the largest profiles, `▼` where one is stopped as likely as not, `╷` ends of stages."""
    names = sorted(curves, key=lambda name: -len(curves[name]))[:MOST_LINES]
    most = max(len(curves[name]) for name in names) - 1
    lines = [Line(name if len(curves) > 1 else "", _padded(curves[name], most)) for name in names]
    ends = {cell.cumulative for stage in plan.stages for cell in stage.strata if cell.stratum in names}
    signs = [Sign(count / most, STAGE_END) for count in sorted(ends) if 0 < count <= most]
    signs += [Sign(median / most, MEDIAN) for name in names if (median := medians.get(name)) is not None]
    step = math.ceil(most / _TICKS)
    ticks = [(n / most, text(n)) for n in range(0, most, step) if 2 * (most - n) > step]
    title = f"Stopped, if it fails on {bad_pct} % of devices"
    return Chart(title, lines, percent, [*ticks, (1.0, counted(most, "device"))], (), signs)


def sentences(medians: Mapping[str, int | None], curves: Mapping[str, Sequence[float]], bad_pct: int) -> Iterator[str]:
    """Yield for each profile after how many devices a bad release is stopped as likely as not."""
    for name, median in medians.items():
        devices = len(curves[name]) - 1
        if median is not None:
            yield f"{name}: a release that fails on {bad_pct} % of devices is stopped after {counted(median, 'device')} (median)."
        else:
            chance = percent(curves[name][-1])
            yield f"{name}: {counted(devices, 'device')} stop a release that fails on {bad_pct} % of them with a chance of {chance} only."


def _chance(stage: str, profile: str, devices: int, curve: Sequence[float]) -> StageChance:
    last = len(curve) - 1
    return StageChance(stage, profile, devices, curve[min(devices, last)] if curve else None, 0 <= last < devices)


def _padded(curve: Sequence[float], most: int) -> list[float | None]:
    return [curve[n] if n < len(curve) else None for n in range(most + 1)]
