"""Rules about objectives: a budget that burns too fast, and one that burns slowly. Pure.

A pair of windows burns when both are too fast (`objectives.burn_rate`); an alert of the fast rule quiets the slow one's.
"""

from collections.abc import Iterator, Sequence

from edgefleet_server.alerting.alert_rules.figure_text import duration_text, number_text, percent_text
from edgefleet_server.alerting.alert_rules.fleet_facts import BurnFact, Facts, Finding, SloFact
from edgefleet_server.objectives.burn_rate import CLEARS_AT


def slo_burn(facts: Facts, threshold: float) -> Iterator[Finding]:
    """Find objectives whose budget would be gone within days. threshold: of the limits of the pairs, 1 = as they are."""
    yield from _all_burning(facts, threshold, is_fast=True)


def slo_burn_slow(facts: Facts, threshold: float) -> Iterator[Finding]:
    """Find objectives whose budget will not last its window. threshold: of the limits of the pairs, 1 = as they are."""
    yield from _all_burning(facts, threshold, is_fast=False)


def _all_burning(facts: Facts, threshold: float, *, is_fast: bool) -> Iterator[Finding]:
    """Find objectives of which a pair is over its limit, or close to it; the one that is furthest over it speaks."""
    for slo in facts.slos:
        found = [
            one
            for one in slo.burns
            if one.is_fast is is_fast and one.is_sure and one.burn >= CLEARS_AT * threshold * one.factor
        ]
        if found:
            yield _burning(slo, max(found, key=lambda one: one.burn / one.factor), threshold)


def _burning(slo: SloFact, one: BurnFact, threshold: float) -> Finding:
    limit = threshold * one.factor
    left = "nothing is known of its budget" if slo.left is None else f"{_left(slo.left)} of its budget is left"
    return Finding(
        subject=f"slo:{slo.name}",
        shown=slo.title,
        summary=f"burns its error budget {number_text(one.burn)} times too fast: {one.bad} of {one.total} bad in "
        f"{duration_text(one.long_s)}",
        value=one.burn,
        limit=limit,
        group=f"model {slo.model}",
        near=one.burn < limit,
        evidence=[f"asked: {slo.says}", left, *_others(slo.burns, one)],
        labels={"model": slo.model, "slo": slo.name},
        link=f"/slos/{slo.name}",
    )


def _left(left: float) -> str:
    return percent_text(left) if left > 0 else "nothing"


def _others(burns: Sequence[BurnFact], chosen: BurnFact) -> list[str]:
    return [
        f"over {duration_text(one.long_s)} and {duration_text(one.short_s)}: at least {number_text(one.burn)} times"
        for one in burns
        if one is chosen or one.burn >= 1
    ]
