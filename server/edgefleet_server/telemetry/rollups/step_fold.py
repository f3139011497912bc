"""Folds what a batch counted by minute into the rows that hold it: each scale of each series, and of all cohorts together. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from operator import itemgetter
from typing import Final

from edgefleet_server.telemetry.rollups.model import EVER, KEPT, SCALES
from edgefleet_server.telemetry.rollups.totals import Total, loaded, stored, stored_block

MINUTE: Final = SCALES[0]
BLOCK: Final = SCALES[1]
"""The steps of a minute in so many seconds are one row."""
ALL: Final = 0
"""The cohort of all devices."""

SeriesKey = tuple[str, str, str, str, str, int]
"""Kind, model, version, digest, lane, cohort."""
Places = dict[int, list[Total]]
"""By `place_of`: what counts there, not added up yet."""
Minutes = dict[int, Total]
RowKey = tuple[int, int, int]
"""Scale, number of a series, beginning."""
Row = Total | Minutes
"""A step; of a block its minutes."""


def oldest_of(scale_s: int, now: datetime) -> int:
    """Return before when nothing is kept any more of a scale, unix seconds."""
    return int((now - KEPT[scale_s]).timestamp())


def place_of(t0: int, length_s: int, now_s: int, oldest_minute_s: int) -> int:
    """Return where a window counts: at the beginning of its minute, or of its block where it is as long as that, or old.

    A device's clock puts nothing into the future.
    """
    at = min(now_s, t0)
    minute = at - at % MINUTE
    return minute if length_s < BLOCK and minute >= oldest_minute_s else at - at % BLOCK


def folded(counted: Mapping[int, Places], of_all: Mapping[int, int], now: datetime) -> dict[RowKey, Row]:
    """Return the rows of each scale that still keeps them and of all time: of each series, and of all cohorts together.

    counted: by the number of a series. of_all: the number of the series of all cohorts together, of each.
    """
    rows: dict[RowKey, Row] = {}
    together: dict[int, Places] = {}
    for series, places in counted.items():
        minutes = _summed(places)
        _collect(together.setdefault(of_all[series], {}), minutes.items())
        _add_rows(rows, series, minutes, now)
    for series, places in together.items():
        _add_rows(rows, series, _summed(places), now)
    return rows


def _add_rows(rows: dict[RowKey, Row], series: int, minutes: Minutes, now: datetime) -> None:
    oldest = oldest_of(MINUTE, now)
    for at, sums in minutes.items():
        if at >= oldest:
            rows.setdefault((MINUTE, series, at - at % BLOCK), {})[at] = sums  # type: ignore[index]
    steps = minutes
    for scale in SCALES[1:]:
        parts: Places = {}
        _collect(parts, ((at - at % scale, sums) for at, sums in steps.items()))
        steps, oldest = _summed(parts), oldest_of(scale, now)
        for at, sums in steps.items():
            if at >= oldest:
                rows[scale, series, at] = sums
    rows[EVER, series, 0] = sum_of(list(steps.values()))


def sum_of(totals: Sequence[Total]) -> Total:
    """Return the sum of at least one total, all of the same kind."""
    return type(totals[0]).summed(totals)


def _summed(parts: Mapping[int, Sequence[Total]]) -> dict[int, Total]:
    return {at: sum_of(totals) for at, totals in parts.items()}


def _collect(into: Places, found: Iterable[tuple[int, Total]]) -> None:
    for at, sums in found:
        known = into.get(at)
        if known is None:
            into[at] = [sums]
        else:
            known.append(sums)


def written(scale_s: int, added: Row, before: bytes | None, kind: type[Total]) -> bytes:
    """Return a row with what is added to it. before: what is stored, None without a row. kind: the totals of its series."""
    if scale_s != MINUTE:
        total: Total = added  # type: ignore[assignment]
        return stored(total if before is None else kind.summed([kind.unpacked(loaded(before)), total]))
    minutes: Minutes = dict(added)  # type: ignore[arg-type]
    for at, one in () if before is None else loaded(before):
        known = kind.unpacked(one)
        minutes[at] = kind.summed([known, minutes[at]]) if at in minutes else known
    return stored_block([[at, sums.packed()] for at, sums in sorted(minutes.items(), key=itemgetter(0))])
