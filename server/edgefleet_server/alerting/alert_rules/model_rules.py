"""Rules about models on devices, from the windows of real requests. Pure.

Each window is looked at once (`taken`): the newest NEWEST of a model on a device are kept, and the p95 of older ones is kept as one
figure, the mean of its logarithm, in which each window counts one part in at most USUAL_OVER. Rules judge the newest windows together.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from statistics import median
from typing import Final

from edgefleet_server.alerting.alert_rules.device_rules import device_group, labels_of
from edgefleet_server.alerting.alert_rules.figure_text import number_text, percent_text
from edgefleet_server.alerting.alert_rules.fleet_facts import DeviceFact, Facts, Finding, Look, ModelFact

NEWEST: Final = 4
USUAL_OVER: Final = 200
USUAL_NEEDED: Final = 12
"""So many windows make a past: 3 hours at one window in 15 minutes."""
LOOKS_NEEDED: Final = 3
FRESH: Final = timedelta(hours=2)
"""What is older says nothing of how it is now."""
LEAST_N: Final = 50
LEAST_MORE_MS: Final = 2.0
"""What is slower by less than this is noise of the clock and the scheduler, whatever the ratio."""
CLEARS_AT: Final = 0.8
"""An alert ends at four fifths of the threshold."""


@dataclass(frozen=True, slots=True)
class _Judged:
    """What a rule says of a model on a device."""

    text: str
    value: float
    evidence: str


_Judge = Callable[[ModelFact, Sequence[Look], float], _Judged | None]


def taken(known: ModelFact | None, device: str, model: str, version: str, look: Look) -> ModelFact:
    """Return what is known of a model on a device after one window more."""
    if known is None:
        return ModelFact(device, model, version, (look,), None, 0)
    looks = [*known.looks, look]
    usual, windows = known.usual_p95_ms, known.usual_windows
    for old in looks[:-NEWEST]:
        if old.p95_ms is not None and old.p95_ms > 0:
            windows += 1
            part = 1 / min(windows, USUAL_OVER)
            log = math.log(old.p95_ms)
            usual = math.exp(log if usual is None else (1 - part) * math.log(usual) + part * log)
    return replace(known, version=version, looks=tuple(looks[-NEWEST:]), usual_p95_ms=usual, usual_windows=windows)


def latency_up(facts: Facts, threshold: float) -> Iterator[Finding]:
    """Find models whose p95 is `threshold` times what it usually was on the same device."""
    return _findings(facts, threshold, _slower)


def error_share(facts: Facts, threshold: float) -> Iterator[Finding]:
    """Find models of whose requests more than so many percent failed: errors, timeouts and crashes."""
    return _findings(facts, threshold, _failing)


def not_finite(facts: Facts, threshold: float) -> Iterator[Finding]:
    """Find models of whose answers more than so many percent are not finite numbers."""
    return _findings(facts, threshold, _not_finite)


def in_question(models: Iterable[ModelFact], now: datetime, thresholds: Mapping[str, float]) -> set[str]:
    """Return the devices that these rules find something of, where they are live. thresholds: of rules, by name; of others too."""
    asked = [(judge, thresholds[name]) for name, judge in _JUDGES.items() if name in thresholds]
    return {
        one.device
        for one in models
        if (looks := _fresh(one, now)) and any(judge(one, looks, limit) is not None for judge, limit in asked)
    }


def _findings(facts: Facts, threshold: float, judge: _Judge) -> Iterator[Finding]:
    known = {device.id: device for device in facts.devices}
    for one in facts.models:
        device = known.get(one.device)
        looks = [] if device is None else _fresh(one, facts.now)
        judged = judge(one, looks, threshold) if looks else None
        if device is not None and judged is not None:
            yield _found(one, device, judged, threshold)


def _fresh(one: ModelFact, now: datetime) -> list[Look]:
    return [look for look in one.looks if now - look.at <= FRESH]


def _slower(one: ModelFact, looks: Sequence[Look], threshold: float) -> _Judged | None:
    times = [look.p95_ms for look in looks if look.p95_ms is not None]
    if len(times) < LOOKS_NEEDED or one.usual_p95_ms is None or one.usual_windows < USUAL_NEEDED:
        return None
    now_ms, usual_ms = median(times), one.usual_p95_ms
    ratio = now_ms / usual_ms
    if ratio < 1 + (threshold - 1) * CLEARS_AT or now_ms - usual_ms < LEAST_MORE_MS:
        return None
    text = f"p95 latency is {number_text(now_ms)} ms, usually {number_text(usual_ms)} ms"
    return _Judged(text, ratio, f"median of its {len(times)} newest windows, against {one.usual_windows} before")


def _failing(one: ModelFact, looks: Sequence[Look], threshold: float) -> _Judged | None:
    return _share(one, looks, sum(look.bad for look in looks), threshold, "requests failed")


def _not_finite(one: ModelFact, looks: Sequence[Look], threshold: float) -> _Judged | None:
    return _share(one, looks, sum(look.nonfinite for look in looks), threshold, "answers are not finite numbers")


def _share(one: ModelFact, looks: Sequence[Look], part: int, threshold: float, what: str) -> _Judged | None:
    whole = max(sum(look.n for look in looks), part)
    if whole < LEAST_N or 100 * part < threshold * CLEARS_AT * whole or not part:
        return None
    text = f"{part} of {whole} {what} ({percent_text(part / whole)})"
    return _Judged(text, 100 * part / whole, f"the newest {len(one.looks)} windows together")


def _found(one: ModelFact, device: DeviceFact, judged: _Judged, limit: float) -> Finding:
    return Finding(
        subject=f"model:{one.model}@{device.id}",
        shown=f"{one.model} on {device.shown}",
        summary=judged.text,
        value=judged.value,
        limit=limit,
        group=f"model {one.model}",
        near=judged.value < limit,
        evidence=[f"version {one.version}, {device_group(device)}", judged.evidence],
        devices=[device.id],
        labels=labels_of(device) | {"model": one.model, "version": one.version},
        link=f"/devices/{device.id}",
    )


_JUDGES: Final[Mapping[str, _Judge]] = {
    "latency_up": _slower,
    "error_share": _failing,
    "not_finite": _not_finite,
}
"""What judges a model on a device, by the name of its rule."""
