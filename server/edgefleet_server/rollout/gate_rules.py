"""What webhook gates do to a decision. Pure. Its own file because `rules` is a page long already; `gating` says what gates mean."""

from edgefleet_server.rollout.gating import (
    GATE_CLOSED,
    GATE_CONFIRM,
    GATE_ROLLBACK,
    asks_for_rollback,
    is_closed,
    waits_for_confirmation,
)
from edgefleet_server.rollout.model import Advance, Decision, Facts, Figures, Hold, RollBack


def asked_back_by_gate(facts: Facts, figures: Figures) -> RollBack | None:
    """Return the roll-back that a gate asks for, None when none does."""
    asked = asks_for_rollback(facts.gates)
    return RollBack(GATE_ROLLBACK, asked, figures) if asked else None


def held_by_gate(facts: Facts, verdict: Decision) -> Decision:
    """Return an advance that a gate does not let through as a Hold, every other verdict as it is.

    A closed `rollout` gate comes first: whoever confirms is asked only when everything else is there.
    """
    if not isinstance(verdict, Advance):
        return verdict
    for code, waits in ((GATE_CLOSED, is_closed(facts.gates)), (GATE_CONFIRM, waits_for_confirmation(facts.gates))):
        if waits:
            return Hold(code, f"{verdict.reason}; {waits}", verdict.figures)
    return verdict
