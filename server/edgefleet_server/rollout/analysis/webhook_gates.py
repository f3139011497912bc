"""Webhook gates of a stage: what their answers mean for a stage run and for its decision. Pure.

Names and meaning are those of Flagger's webhooks:
- `confirm-rollout`, `pre-rollout`: the stage opens only when they pass.
- `rollout`: asked again and again while the stage is open; it does not pass unless the latest answer does.
- `confirm-promotion`: asked when everything else is there; the stage passes only then.
- `rollback`: asked again and again while the stage is open; a status that passes means *roll back*, anything else means
  nothing. Rules:
1. HTTP 200 to 202 pass, as in Flagger, whose own load tester answers 202. Another status, an error, silence, an answer that
   is too old or none at all: hold, never pass.
2. What was answered is part of the facts of a decision, with its status and its time: it is stored with it, and decides again
   the same.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Final

from edgefleet_server.rollout.analysis.model import (
    PASSES_TO,
    Advance,
    Decision,
    Facts,
    Figures,
    GateFact,
    KeepWaiting,
    RollBack,
)
from edgefleet_server.rollout.model import Answered
from edgefleet_server.rollout.spec.model import OPENING, GateKind, WebhookGate


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
            return KeepWaiting(code, f"{verdict.reason}; {waits}", verdict.figures)
    return verdict


# ---- codes of what a cell waits for, or was stopped by: public and stable

GATE_OPENING: Final = "gate_opening"

GATE_CLOSED: Final = "gate_closed"

GATE_CONFIRM: Final = "gate_confirm"

GATE_ROLLBACK: Final = "gate_rollback"


def facts_of_gates(gates: Sequence[WebhookGate], answers: Mapping[int, Answered], now: datetime) -> list[GateFact]:
    """Return the gates of a stage with what they last said."""
    found = []
    for place, gate in enumerate(gates):
        said = answers.get(place)
        age_s = None if said is None else round(now.timestamp() - said.at, 3)
        found.append(
            GateFact(
                name=gate.name,
                kind=gate.kind,
                status=None if said is None else said.status,
                error="" if said is None else said.error,
                body="" if said is None else said.body,
                age_s=age_s,
                fresh_s=gate.fresh.total_seconds(),
                passes_to=PASSES_TO,
            )
        )
    return found


def waits_to_open(facts: Iterable[GateFact]) -> str:
    """Return why a stage may not open yet, "" when it may."""
    return _waits(facts, OPENING)


def asks_for_rollback(facts: Iterable[GateFact]) -> str:
    """Return which gate asks to roll back, "" when none does."""
    asking = [one for one in facts if one.kind is GateKind.ROLLBACK and one.passes]
    return "; ".join(f"gate {one.name} asks to roll back{_quoted(one.body)}" for one in asking)


def is_closed(facts: Iterable[GateFact]) -> str:
    """Return which gate holds an open stage, "" when none does."""
    return _waits(facts, frozenset({GateKind.ROLLOUT}))


def waits_for_confirmation(facts: Iterable[GateFact]) -> str:
    """Return which gate has to confirm that the stage passes, "" when all did."""
    return _waits(facts, frozenset({GateKind.CONFIRM_PROMOTION}))


def _waits(facts: Iterable[GateFact], kinds: frozenset[GateKind]) -> str:
    waiting = [one for one in facts if one.kind in kinds and not one.passes]
    return "; ".join(f"gate {one.name} ({one.kind.value}): {one.told}" for one in waiting)


def _quoted(body: str) -> str:
    text = " ".join(body.split())[:120]
    return f": {text}" if text else ""
