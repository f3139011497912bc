"""Concept drift: answers became worse although the model is asked the same. Pure.

1. Now is the last RECENT days that have labels. It is compared with the accuracy at publish, and with the first BURN_IN days that had
   labels, where they lie before; of both, the plainer difference is told, for the price of two tests.
2. At a fixed mix: labels of now are weighted so that each class has the part that it had in the first days. A class that has become more
   frequent, and was always harder, is no drift of the concept. At publish no mix is known: there labels count as they are.
3. The device is the unit, as everywhere: the mean over devices of their shares, with the spread of both sides (`intervals`).
4. A drop counts from LEAST_DROP on, when chance does it less than once in 1 / CHANCE looks. One device can only speak for itself: of a
   fleet of several it needs LEAST_DEVICES.
5. Worse answers while the inputs have drifted, too, are called so: then new data is due, and the concept may be the same.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from edgefleet_server.telemetry.ground_truth.intervals import Share, drop_log10, share_of
from edgefleet_server.telemetry.ground_truth.truth_sums import TruthSums, added
from edgefleet_server.telemetry.ground_truth.views import ConceptDrift, PublishedAccuracy

RECENT: Final = timedelta(days=7)
BURN_IN: Final = timedelta(days=7)
LOOK_BACK: Final = timedelta(days=120)
LEAST_LABELS: Final = 50
LEAST_DROP: Final = 0.02
CHANCE: Final = 1e-4
DOUBT: Final = 1e-2
"""A drop that chance makes less often is said, but not called one yet."""
LEAST_DEVICES: Final = 2

Days = Mapping[datetime, Mapping[str, TruthSums]]
"""By day what each device counted."""


@dataclass(frozen=True, slots=True)
class _Drop:
    """One comparison."""

    source: str
    before: float
    now: Share
    log10_p: float


def days_of(found: Iterable[tuple[str, datetime, TruthSums]]) -> dict[datetime, dict[str, TruthSums]]:
    """Return what (device, day, sums) say by day and device; days without labels of classes are none."""
    days: dict[datetime, dict[str, list[TruthSums]]] = {}
    for device, day, sums in found:
        if sums.labelled:
            days.setdefault(day, {}).setdefault(device, []).append(sums)
    return {day: {device: added(some) for device, some in devices.items()} for day, devices in sorted(days.items())}


def judge(
    days: Days, published: PublishedAccuracy | None, now: datetime, inputs_drift: Callable[[], bool]
) -> ConceptDrift:
    """Return whether answers became worse. inputs_drift: asked only when they did."""
    recent = _over([one for day, one in days.items() if day > now - RECENT - timedelta(days=1)])
    share = share_of(_plain(recent))
    if share is None or share.labelled < LEAST_LABELS:
        return _view("few", "Too few labels to say whether answers became worse.", None, share)
    fleet = len({device for devices in days.values() for device in devices})
    drops = [*_against_publish(share, published), *_against_first(days, recent, now)]
    if not drops:
        return _view(
            "few", "There is nothing to compare with: no accuracy at publish, and no labels of before.", None, share
        )
    plainest = min(drops, key=lambda one: one.log10_p)
    is_sure = plainest.log10_p + math.log10(len(drops)) <= math.log10(CHANCE)
    is_large = plainest.before - plainest.now.value >= LEAST_DROP
    if plainest.now.devices < min(LEAST_DEVICES, fleet):
        return _view("few", "Only one device of several has labels lately: it says nothing of the others.", None, share)
    if not (is_sure and is_large):
        is_lower = is_large and plainest.log10_p + math.log10(len(drops)) <= math.log10(DOUBT)
        state = "unsure" if is_lower else "none"
        return _view(state, _calm(plainest, is_large=is_large, is_lower=is_lower), plainest, plainest.now)
    state = "inputs" if inputs_drift() else "drift"
    return _view(state, _worse(plainest, state), plainest, plainest.now)


def _against_publish(share: Share, published: PublishedAccuracy | None) -> list[_Drop]:
    if published is None:
        return []
    return [_Drop("publish", published.value, share, drop_log10(share, published.value, published.n))]


def _against_first(days: Days, recent: Mapping[str, TruthSums], now: datetime) -> list[_Drop]:
    first = min(days)
    end = first + BURN_IN
    if end > now - RECENT:
        return []
    earlier = _over([one for day, one in days.items() if day < end])
    before = share_of(_plain(earlier))
    if before is None or before.labelled < LEAST_LABELS:
        return []
    after = share_of(_weighted(recent, _mix(earlier), _mix(recent)))
    return [] if after is None else [_Drop("first_labels", before.value, after, drop_log10(after, before))]


def _over(days: Sequence[Mapping[str, TruthSums]]) -> dict[str, TruthSums]:
    found: dict[str, list[TruthSums]] = {}
    for one in days:
        for device, sums in one.items():
            found.setdefault(device, []).append(sums)
    return {device: added(some) for device, some in found.items()}


def _plain(devices: Mapping[str, TruthSums]) -> list[tuple[float, float]]:
    return [(one.labelled, one.correct) for one in devices.values()]


def _mix(devices: Mapping[str, TruthSums]) -> dict[int, float]:
    """Return the mean over devices of the shares of classes among their labels."""
    mix: dict[int, float] = {}
    for one in devices.values():
        for (label, _), n in one.cells.items():
            mix[label] = mix.get(label, 0.0) + n / one.labelled / len(devices)
    return mix


def _weighted(
    devices: Mapping[str, TruthSums], before: Mapping[int, float], now: Mapping[int, float]
) -> list[tuple[float, float]]:
    """Return labels and right ones of each device, weighted to the mix of before; so many labels as they are worth (Kish)."""
    found = []
    for one in devices.values():
        weights = {pair: before.get(pair[0], 0.0) / now[pair[0]] for pair in one.cells}
        whole = math.fsum(weights[pair] * n for pair, n in one.cells.items())
        squares = math.fsum(weights[pair] ** 2 * n for pair, n in one.cells.items())
        if whole > 0:
            right = math.fsum(weights[pair] * one.right(pair[0]) for pair in one.cells if pair[0] == pair[1])
            worth = whole * whole / squares
            found.append((worth, worth * right / whole))
    return found


def _view(state: str, said: str, drop: _Drop | None, share: Share | None) -> ConceptDrift:
    return ConceptDrift(
        state=state,
        said=said,
        source="" if drop is None else drop.source,
        before=None if drop is None else drop.before,
        after=None if share is None else share.value,
        low=None if share is None else share.low,
        high=None if share is None else share.high,
        devices=0 if share is None else share.devices,
        labelled=0 if share is None else round(share.labelled),
        log10_p=0.0 if drop is None else drop.log10_p,
    )


_SINCE: Final = {"publish": "at publish", "first_labels": "in the first days with labels"}


def _figures(drop: _Drop) -> str:
    now = drop.now
    return (
        f"{now.value:.1%} of labelled answers are right (95 %: {now.low:.1%} to {now.high:.1%}), "
        f"{_SINCE[drop.source]} {drop.before:.1%} were"
    )


def _calm(drop: _Drop, *, is_large: bool, is_lower: bool) -> str:
    if is_lower:
        ending = "lower, but not sure enough yet to be called worse; more labels or devices would tell"
    else:
        ending = "chance may make this difference" if is_large else "too little of a difference to matter"
    return f"{_figures(drop)}: {ending}."


def _worse(drop: _Drop, state: str) -> str:
    devices = "1 device" if drop.now.devices == 1 else f"{drop.now.devices} devices"
    why = (
        "while the inputs have drifted: the model needs data of what it is asked now"
        if state == "inputs"
        else "although the inputs are as they were: what is right has changed"
    )
    return f"Answers became worse on {devices}: {_figures(drop)}, {why}."
