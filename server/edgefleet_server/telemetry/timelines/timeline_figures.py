"""Sums of steps as lines of a chart: rates, shares and quantiles. Pure.

Rules:
1. Requests a second are spread over the time that windows cover: a window of 15 minutes in a step of one minute is a rate of 15 minutes,
   not a spike. Steps for which devices may still have to report have no rate, unless there is nothing else.
2. A quantile of a step is one of all its requests, not a mean of quantiles.
"""

import math
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import accumulate, zip_longest
from typing import Final

from edgefleet_protocol.sketch import LatencySketch, bucket_value_s
from edgefleet_server.telemetry.model import rounded_ms
from edgefleet_server.telemetry.rollups.model import KEPT, SCALES, Step, Sums, SystemSums
from edgefleet_server.telemetry.timelines.model import MOST_CLASSES, MOST_LINES, REST, ClassShares, MetricLine

QUANTILES: Final = (0.5, 0.95, 0.99)
LENGTHS: Final = (*(60, 180, 300, 900, 1_800, 3_600, 7_200, 10_800, 14_400, 21_600, 43_200, 86_400),)
MESSAGE_S: Final = 900
"""How long a device waits between two messages where nothing is under way."""
NETWORK: Final = ("net_rx_bytes", "net_tx_bytes")
MOST_OF: Final = ("temperature_celsius", "throttled_ratio", "cpu_ratio")
"""Of which the largest of any device is said too."""
Cells = dict[int, Sums]
"""Sums by the number of the step."""


def begins(since_s: int, until_s: int, step_s: int) -> list[int]:
    """Return the beginnings of the steps that touch a span of time; they are multiples of their length."""
    first = since_s // step_s * step_s
    return list(range(first, max(first + 1, until_s), step_s))


def step_length(span_s: float, points: int) -> int:
    """Return the shortest of LENGTHS of which a span has at most so many; beyond them whole days."""
    least = span_s / max(1, points - 1)
    return next((one for one in LENGTHS if one >= least), math.ceil(least / LENGTHS[-1]) * LENGTHS[-1])


def scale_of(step_s: int, age_s: float, least_s: float = 0.0) -> int:
    """Return the longest stored scale that a step is a multiple of; a longer one where that is shorter than `least_s` or not kept for
    so long.
    """
    least_s = max(least_s, *(one for one in SCALES if step_s % one == 0))
    return next((one for one in SCALES if one >= least_s and KEPT[one].total_seconds() >= age_s), SCALES[-1])


def joined(steps: Iterable[Step[Sums]], step_s: int) -> dict[str, Cells]:
    """Return sums by the first value of their key and by step; keys beyond MOST_LINES are one together."""
    found: dict[str, Cells] = {}
    for one in steps:
        key, at = one.key[0] if one.key else "", int(one.at.timestamp()) // step_s * step_s
        cells = found.setdefault(key, {})
        known = cells.get(at)
        cells[at] = one.sums if known is None else known + one.sums
    order = sorted(found, key=lambda key: -sum(one.n for one in found[key].values()))
    rest: Cells = {}
    for key in order[MOST_LINES:]:
        for at, sums in found.pop(key).items():
            rest[at] = rest[at] + sums if at in rest else sums
    return {**{key: found[key] for key in sorted(found)}, **({REST: rest} if rest else {})}


def line_of(key: str, cells: Cells, at: Sequence[int], step_s: int, now_s: int) -> MetricLine:
    """Return the line of some sums."""
    sums = [cells.get(one) for one in at]
    quantiles = [(None, None, None) if one is None else quantiles_ms(one.latency) for one in sums]
    return MetricLine(
        key=key,
        requests=[None if one is None else one.n for one in sums],
        requests_per_s=_rates(cells, at, step_s, now_s),
        errors=[None if one is None else one.errors for one in sums],
        timeouts=[None if one is None else one.timeouts for one in sums],
        nonfinite=[None if one is None else one.nonfinite for one in sums],
        crashes=[None if one is None else one.crashes for one in sums],
        p50_ms=[one[0] for one in quantiles],
        p95_ms=[one[1] for one in quantiles],
        p99_ms=[one[2] for one in quantiles],
        classes=class_shares([() if one is None else one.classes for one in sums]),
    )


def quantiles_ms(latency: LatencySketch) -> tuple[float | None, float | None, float | None]:
    """Return QUANTILES in milliseconds in one walk over the sketch, None where it is empty."""
    buckets = sorted(latency.counts)
    seen = list(accumulate(map(latency.counts.__getitem__, buckets)))
    if not seen or not seen[-1]:
        return None, None, None
    ranks = (max(1, math.ceil(one * seen[-1])) for one in QUANTILES)
    p50, p95, p99 = (rounded_ms(bucket_value_s(buckets[bisect_left(seen, rank)]) * 1000) for rank in ranks)
    return p50, p95, p99


def classes_of(steps: Iterable[Step[Sums]], at: Sequence[int], step_s: int) -> list[ClassShares]:
    """Return the shares of classes over all lines."""
    found: dict[int, list[int]] = {}
    for one in steps:
        place = int(one.at.timestamp()) // step_s * step_s
        found[place] = [a + b for a, b in zip_longest(found.get(place, ()), one.sums.classes, fillvalue=0)]
    return class_shares([found.get(one, ()) for one in at])


def class_shares(counts: Sequence[Sequence[int]]) -> list[ClassShares]:
    """Return the shares of the most frequent classes, and of all others as -1."""
    sums = [sum(column) for column in zip_longest(*counts, fillvalue=0)]
    order = sorted((place for place, n in enumerate(sums) if n), key=lambda place: (-sums[place], place))
    chosen = sorted(order[:MOST_CLASSES])
    totals = [sum(one) for one in counts]
    shares = [
        ClassShares(
            place, [_share(one[place] if place < len(one) else 0, n) for one, n in zip(counts, totals, strict=True)]
        )
        for place in chosen
    ]
    if len(order) > MOST_CLASSES:
        named = [sum(one[place] for place in chosen if place < len(one)) for one in counts]
        shares.append(ClassShares(-1, [_share(n - mine, n) for mine, n in zip(named, totals, strict=True)]))
    return shares


def _share(count: int, total: int) -> float | None:
    return round(count / total, 4) if total else None


def _rates(cells: Cells, at: Sequence[int], step_s: int, now_s: int) -> list[float | None]:
    spread: dict[int, float] = {}
    longest = 0
    for begin, sums in cells.items():
        if not sums.windows:
            continue
        covered = max(step_s, sums.seconds // sums.windows)
        longest = max(longest, min(covered, 3600) if covered > step_s else sums.seconds // sums.windows)
        end = begin + covered
        for one in range(begin, min(end, at[-1] + 1), step_s):
            spread[one] = spread.get(one, 0.0) + sums.n / covered * min(1.0, (end - one) / step_s)
    whole = {one for one in at if one + step_s + longest <= now_s}
    kept = whole if any(one in spread for one in whole) else set(at)
    return [round(spread[one], 4) if one in spread and one in kept else None for one in at]


def system_of(
    steps: Iterable[Step[SystemSums]], at: Sequence[int], step_s: int
) -> tuple[dict[str, list[float | None]], dict[str, list[float | None]]]:
    """Return means of the figures of devices by name, and the largest of some of them.

    Traffic is bytes a second of all devices together; steps that are shorter than the time between two messages have none.
    """
    sums: dict[str, dict[int, list[float]]] = {}
    for one in steps:
        place = int(one.at.timestamp()) // step_s * step_s
        for name, figure in one.sums.figures.items():
            known = sums.setdefault(name, {}).setdefault(place, [0.0, 0.0, 0.0])
            known[0] += figure.n
            known[1] += figure.total
            known[2] = max(known[2], figure.most)
    means = {name: [_mean(cells.get(one)) for one in at] for name, cells in sums.items() if name not in NETWORK}
    for name in sums.keys() & NETWORK if step_s >= MESSAGE_S else ():
        cells = sums[name]
        means[f"{name}_per_s"] = [rounded(cells[one][1] / step_s) if one in cells else None for one in at]
    most = {
        name: [cells[one][2] if one in cells else None for one in at] for name, cells in sums.items() if name in MOST_OF
    }
    return means, most


def _mean(sums: Sequence[float] | None) -> float | None:
    return None if sums is None or not sums[0] else rounded(sums[1] / sums[0])


def rounded(value: float) -> float:
    """Return a figure to six digits: what is measured has no more."""
    return float(f"{value:.6g}")
