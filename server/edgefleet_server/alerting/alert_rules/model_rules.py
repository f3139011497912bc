"""Rules about models on devices, from the windows of real requests. Pure.

Each window is looked at once (`taken`): the newest NEWEST of a model on a device are kept, and the p95 of older ones is kept as one
figure, the mean of its logarithm, in which each window counts one part in at most USUAL_OVER. Rules judge the newest windows together.
"""

import math
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
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
    for one, device, looks in _fresh(facts):
        times = [look.p95_ms for look in looks if look.p95_ms is not None]
        if len(times) < LOOKS_NEEDED or one.usual_p95_ms is None or one.usual_windows < USUAL_NEEDED:
            continue
        now_ms, usual_ms = median(times), one.usual_p95_ms
        ratio = now_ms / usual_ms
        if ratio < 1 + (threshold - 1) * CLEARS_AT or now_ms - usual_ms < LEAST_MORE_MS:
            continue
        text = f"p95 latency is {number_text(now_ms)} ms, usually {number_text(usual_ms)} ms"
        yield _found(
            one,
            device,
            text,
            ratio,
            threshold,
            f"median of its {len(times)} newest windows, against {one.usual_windows} before",
        )


def error_share(facts: Facts, threshold: float) -> Iterator[Finding]:
    """Find models of whose requests more than so many percent failed: errors, timeouts and crashes."""
    for one, device, looks in _fresh(facts):
        whole, part = sum(look.n for look in looks), sum(look.bad for look in looks)
        yield from _share(one, device, part, whole, threshold, "requests failed")


def not_finite(facts: Facts, threshold: float) -> Iterator[Finding]:
    """Find models of whose answers more than so many percent are not finite numbers."""
    for one, device, looks in _fresh(facts):
        whole, part = sum(look.n for look in looks), sum(look.nonfinite for look in looks)
        yield from _share(one, device, part, whole, threshold, "answers are not finite numbers")


def _share(one: ModelFact, device: DeviceFact, part: int, whole: int, threshold: float, what: str) -> Iterator[Finding]:
    whole = max(whole, part)
    if whole < LEAST_N or 100 * part < threshold * CLEARS_AT * whole or not part:
        return
    text = f"{part} of {whole} {what} ({percent_text(part / whole)})"
    yield _found(one, device, text, 100 * part / whole, threshold, f"the newest {len(one.looks)} windows together")


def _fresh(facts: Facts) -> Iterator[tuple[ModelFact, DeviceFact, list[Look]]]:
    known = {device.id: device for device in facts.devices}
    for one in facts.models:
        looks = [look for look in one.looks if facts.now - look.at <= FRESH]
        if looks and one.device in known:
            yield one, known[one.device], looks


def _found(one: ModelFact, device: DeviceFact, text: str, value: float, limit: float, evidence: str) -> Finding:
    return Finding(
        subject=f"model:{one.model}@{device.id}",
        shown=f"{one.model} on {device.shown}",
        summary=text,
        value=value,
        limit=limit,
        group=f"model {one.model}",
        near=value < limit,
        evidence=[f"version {one.version}, {device_group(device)}", evidence],
        devices=[device.id],
        labels=labels_of(device) | {"model": one.model, "version": one.version},
        link=f"/devices/{device.id}",
    )
