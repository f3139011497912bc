"""What devices answered over a span of time, by model or version, as one figure each: how many, how many failed, and how fast."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from edgefleet_server.telemetry.rollups.model import Dimension, Sums
from edgefleet_server.telemetry.rollups.rollup_reader import RollupReader
from edgefleet_server.telemetry.timelines.timeline_figures import quantiles_ms, scale_of, step_length

ACTIVE: Final = ("active",)
STEPS: Final = 61


@dataclass(frozen=True, slots=True)
class AnswerTotals:
    """Answers that users got. failed: errors, timeouts, crashes and not finite ones; p95_ms: None where no latency was counted."""

    n: int
    failed: int
    nonfinite: int
    p95_ms: float | None


def by_model(rollups: RollupReader, since: datetime, until: datetime) -> Mapping[str, AnswerTotals]:
    """Return the totals of every model that answered."""
    return _totals(rollups, since, until, Dimension.MODEL, {})


def by_version(rollups: RollupReader, model: str, since: datetime, until: datetime) -> Mapping[str, AnswerTotals]:
    """Return the totals of every version of a model that answered."""
    return _totals(rollups, since, until, Dimension.VERSION, {Dimension.MODEL: (model,)})


def _totals(
    rollups: RollupReader, since: datetime, until: datetime, by: Dimension, where: Mapping[Dimension, tuple[str, ...]]
) -> dict[str, AnswerTotals]:
    step_s = step_length((until - since).total_seconds(), STEPS)
    scale_s = scale_of(step_s, (until - since).total_seconds())
    step_s = max(step_s, scale_s)
    begin = datetime.fromtimestamp(int(since.timestamp()) // step_s * step_s, UTC)
    sums: dict[str, Sums] = {}
    for one in rollups.models(scale_s, begin, until, by=(by,), where={**where, Dimension.LANE: ACTIVE}, step_s=step_s):
        known = sums.get(one.key[0])
        sums[one.key[0]] = one.sums if known is None else known + one.sums
    return {
        key: AnswerTotals(one.n, one.failed, one.nonfinite, quantiles_ms(one.latency)[1]) for key, one in sums.items()
    }
