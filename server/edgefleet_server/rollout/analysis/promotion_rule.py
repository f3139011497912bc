"""Which promotion rule a stratum goes by: all of its devices healthy, or the evidence of many. Pure."""

import math
from typing import Final, assert_never

from edgefleet_server.rollout.analysis.model import Rule
from edgefleet_server.rollout.failure_ratio import clean_needed
from edgefleet_server.rollout.spec.model import InstallGate, Promote, Spec

FEW_EXPOSED: Final = 10


def rule_for(promote: Promote, population: int, gate: InstallGate) -> Rule:
    """Return the rule that a stage uses in a stratum of `population` devices.

    auto: `all_healthy` where even a stratum without a failure is too small for the evidence of `gate` (73 at its defaults).
    """
    match promote:
        case Promote.ALL_HEALTHY:
            return Rule.ALL_HEALTHY
        case Promote.EVIDENCE:
            return Rule.EVIDENCE
        case Promote.AUTO:
            return Rule.EVIDENCE if population >= devices_needed(Rule.EVIDENCE, population, gate) else Rule.ALL_HEALTHY
        case _:
            assert_never(promote)


def devices_needed(rule: Rule, population: int, gate: InstallGate) -> float:
    """Return how many healthy devices of a stratum a stage must reach to pass without any failure; infinity: none suffice."""
    if rule is Rule.ALL_HEALTHY:
        return min(2, population)
    try:
        return clean_needed(gate.promote_below, gate.alpha_promote)
    except ValueError:
        return math.inf


def rule_in(spec: Spec, stage: int, population: int, members: int) -> Rule:
    """Return the rule that a stage uses in a stratum of `population` devices of which `members` are in it or in stages before."""
    rule = rule_for(spec.stages[stage].promote, population, spec.gates.install)
    if (
        rule is Rule.EVIDENCE
        and stands_in(spec, stage)
        and members < devices_needed(rule, population, spec.gates.install)
    ):
        return Rule.ALL_HEALTHY
    return rule


def stands_in(spec: Spec, stage: int) -> bool:
    """Return whether somebody looks at what a stage has shown before the next one opens."""
    return stage + 1 < len(spec.stages) and spec.stages[stage + 1].approval is not None
