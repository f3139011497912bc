"""Makes a stored decision again from its stored facts, to show that it follows from them. Pure."""

import math
from collections.abc import Mapping
from typing import Any, Final, assert_never

import msgspec

from edgefleet_server.rollout.analysis.decide import decide
from edgefleet_server.rollout.analysis.model import Advance, Decision, Facts, KeepWaiting, Pause, RollBack
from edgefleet_server.rollout.model import VerdictKind

RULE_VERSION: Final = 2
"""Rules 1 had one threshold for the evidence, as rules 2 have without liars (ADR 0082).

Evidence of rules 1 names no liars, so `decide` makes its decisions again by the rules that made them.
"""


# ---- decisions that were stored


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """A decision as it is stored and shown."""

    verdict: VerdictKind
    code: str
    reason: str
    figures: dict[str, float | int | str | None]


def outcome_of(decision: Decision) -> Outcome:
    """Return a decision in the form that is stored."""
    match decision:
        case Advance():
            verdict = VerdictKind.ADVANCE
        case KeepWaiting():
            verdict = VerdictKind.HOLD
        case Pause():
            verdict = VerdictKind.PAUSE
        case RollBack():
            verdict = VerdictKind.ROLL_BACK
        case _:
            assert_never(decision)
    return Outcome(verdict=verdict, code=decision.code, reason=decision.reason, figures=dict(decision.figures))


def stored(facts: Facts) -> dict[str, Any]:
    """Return facts as JSON values; `recompute` takes them back."""
    result: dict[str, Any] = msgspec.to_builtins(facts)
    return result


def recompute(facts: Mapping[str, Any] | bytes | str) -> Decision:
    """Decide again on stored facts (JSON values, or JSON). Raises msgspec.ValidationError when they are no Facts."""
    if isinstance(facts, bytes | str):
        return decide(msgspec.json.decode(facts, type=Facts))
    return decide(msgspec.convert(facts, Facts))


def same(a: Outcome, b: Outcome) -> bool:
    """Say whether two outcomes agree: verdict, code, reason and every figure.

    Floats may differ by their last digits, in which the mathematical libraries of two machines differ.
    """
    if (a.verdict, a.code, a.reason, a.figures.keys()) != (b.verdict, b.code, b.reason, b.figures.keys()):
        return False
    return all(_close(value, b.figures[key]) for key, value in a.figures.items())


def _close(a: float | int | str | None, b: float | int | str | None) -> bool:
    if isinstance(a, int | float) and isinstance(b, int | float):
        return math.isclose(a, b, rel_tol=1e-9)
    return a == b
