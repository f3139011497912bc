"""Folds what a batch counted by minute into the rows that hold it: each scale of each series, and of all cohorts together. Pure."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Final

from edgefleet_server.telemetry.rollups.model import EVER, KEPT, SCALES
from edgefleet_server.telemetry.rollups.totals import Total, loaded, stored, stored_block

MINUTE: Final = SCALES[0]
BLOCK: Final = SCALES[1]
"""The steps of a minute in so many seconds are one row."""
ALL: Final = 0
"""The cohort of all devices."""

SeriesKey = tuple[str, str, str, str, str, int]
"""Kind, model, version, digest, lane, cohort."""
Minutes = dict[int, Total]
"""By the beginning of the minute, unix seconds."""
RowKey = tuple[int, SeriesKey, int]
"""Scale, series, beginning."""
Row = Total | Minutes
"""A step; of a block its minutes."""


def minute_of(t0: int, now_s: int) -> int:
    """Return the beginning of the minute in which a window counts: a device's clock puts nothing into the future."""
    at = min(t0, now_s)
    return at - at % MINUTE


def with_all(counted: Mapping[SeriesKey, Minutes]) -> dict[SeriesKey, Minutes]:
    """Return the series with those of all cohorts together."""
    found: dict[SeriesKey, Minutes] = dict(counted)
    for key, minutes in counted.items():
        total = found.setdefault((*key[:5], ALL), {})
        for at, sums in minutes.items():
            known = total.get(at)
            total[at] = sums if known is None else known.plus(sums)
    return found


def folded(counted: Mapping[SeriesKey, Minutes], now: datetime) -> dict[RowKey, Row]:
    """Return the rows of each scale that still keeps them, and of all time."""
    rows: dict[RowKey, Row] = {}
    oldest = {scale: int((now - kept).timestamp()) for scale, kept in KEPT.items()}
    for series, minutes in counted.items():
        steps: dict[int, Total] = minutes
        for at, sums in minutes.items():
            if at >= oldest[MINUTE]:
                rows.setdefault((MINUTE, series, at - at % BLOCK), {})[at] = sums  # type: ignore[index]
        for scale in SCALES[1:]:
            steps = _coarser(steps, scale)
            rows |= {(scale, series, at): sums for at, sums in steps.items() if at >= oldest[scale]}
        rows[EVER, series, 0] = _sum(steps.values())
    return rows


def _coarser(steps: Mapping[int, Total], scale: int) -> dict[int, Total]:
    found: dict[int, Total] = {}
    for at, sums in steps.items():
        begin = at - at % scale
        known = found.get(begin)
        found[begin] = sums if known is None else known.plus(sums)
    return found


def _sum(totals: Iterable[Total]) -> Total:
    first, *more = totals
    for one in more:
        first = first.plus(one)
    return first


def written(scale_s: int, added: Row, before: bytes | None, kind: type[Any]) -> bytes:
    """Return a row with what is added to it. before: what is stored, None without a row. kind: the totals of its series."""
    if scale_s != MINUTE:
        total: Total = added  # type: ignore[assignment]
        return stored(total if before is None else kind.unpacked(loaded(before)).plus(total))
    minutes: Minutes = dict(added)  # type: ignore[arg-type]
    for at, one in () if before is None else loaded(before):
        known = kind.unpacked(one)
        minutes[at] = known.plus(minutes[at]) if at in minutes else known
    return stored_block(sorted(minutes.items(), key=lambda one: one[0]))
