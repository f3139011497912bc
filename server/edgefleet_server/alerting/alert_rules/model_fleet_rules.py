"""Rules about a model on all devices together, from roll-ups. Pure.

What is small on each device, or moves from device to device, is seen here; what is large on one device is diluted here and seen by the
rules about single devices. Both may fire.
"""

from collections.abc import Iterator
from typing import Final

from edgefleet_server.alerting.alert_rules.figure_text import number_text, percent_text
from edgefleet_server.alerting.alert_rules.fleet_facts import Facts, Finding, ModelTotals
from edgefleet_server.alerting.alert_rules.model_rules import CLEARS_AT, LEAST_MORE_MS

LEAST_N: Final = 200
"""Requests to a model in an hour, to be judged."""
LEAST_USUAL_N: Final = 2_000
"""Answers that make a past."""
LEAST_DAYS: Final = 1.0
LEAST_FAILED: Final = 3
NAMED: Final = 4


def model_latency_up(facts: Facts, threshold: float) -> Iterator[Finding]:
    """Find models whose p95 over all devices in the last hour is `threshold` times that of the week before."""
    for one in facts.totals:
        if one.n < LEAST_N or one.usual_n < LEAST_USUAL_N or one.usual_days < LEAST_DAYS:
            continue
        if one.p95_ms is None or not one.usual_p95_ms:
            continue
        ratio = one.p95_ms / one.usual_p95_ms
        if ratio < 1 + (threshold - 1) * CLEARS_AT or one.p95_ms - one.usual_p95_ms < LEAST_MORE_MS:
            continue
        text = (
            f"p95 latency over all devices is {number_text(one.p95_ms)} ms, usually {number_text(one.usual_p95_ms)} ms"
        )
        yield _found(one, text, ratio, threshold, f"{one.n} answers of the last hour, {one.usual_n} of a week before")


def model_error_share(facts: Facts, threshold: float) -> Iterator[Finding]:
    """Find models of whose requests on all devices more than so many percent failed in the last hour."""
    for one in facts.totals:
        whole = max(one.n, one.failed)
        if whole < LEAST_N or one.failed < LEAST_FAILED or 100 * one.failed < threshold * CLEARS_AT * whole:
            continue
        text = f"{one.failed} of {whole} requests on all devices failed ({percent_text(one.failed / whole)})"
        yield _found(one, text, 100 * one.failed / whole, threshold, "the last hour")


def runs_missed(facts: Facts, threshold: float) -> Iterator[Finding]:
    """Find models of which so many devices missed planned runs, or had one fail, within a day."""
    known = {device.id: device.shown for device in facts.devices if device.suspect_since is None}
    for model in sorted({one.model for one in facts.run_troubles}):
        mine = [one for one in facts.run_troubles if one.model == model and one.device in known]
        missed = {one.device for one in mine if one.is_missed}
        failed = {one.device for one in mine if not one.is_missed}
        devices = sorted(missed | failed)
        if not devices or len(devices) < threshold:
            continue
        counted = [(len(missed), "missed planned runs"), (len(failed), "had a run fail")]
        yield Finding(
            subject=f"model:{model}", shown=model, value=float(len(devices)), limit=threshold, group=f"model {model}",
            summary=", ".join(f"{n} device{'s' if n > 1 else ''} {what}" for n, what in counted if n),
            evidence=["the last 24 hours", *(known[one] for one in devices[:NAMED])], devices=devices,
            labels={"model": model}, link=f"/models/{model}",
        )  # fmt: skip


def _found(one: ModelTotals, text: str, value: float, limit: float, evidence: str) -> Finding:
    return Finding(
        subject=f"model:{one.model}",
        shown=one.model,
        summary=text,
        value=value,
        limit=limit,
        group=f"model {one.model}",
        near=value < limit,
        evidence=[evidence],
        labels={"model": one.model},
        link=f"/models/{one.model}",
    )
