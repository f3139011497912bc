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
