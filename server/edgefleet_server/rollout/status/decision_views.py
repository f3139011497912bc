"""What people see of decisions: each made again now from its stored evidence. The names of the fields are public: never renamed."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from edgefleet_server.rollout.analysis import replay
from edgefleet_server.rollout.store.tables import RolloutDecision


@dataclass(frozen=True)
class Recomputed:
    """A decision made again from its stored evidence. rule_version: of the rules that made it, those that it was stored by if known."""

    verdict: str
    code: str
    reason: str
    figures: Mapping[str, Any]
    rule_version: int


@dataclass(frozen=True)
class DecisionView:
    """One decision. agrees: made again now from `evidence`, it comes out the same, bit for bit."""

    id: int
    at: datetime
    stage: str
    stratum: str
    verdict: str
    code: str
    reason: str
    rule: str
    rule_version: int
    figures: Mapping[str, Any]
    evidence: Mapping[str, Any]
    actor: str
    recomputed: Recomputed
    agrees: bool


def decision_view(row: RolloutDecision, stage: str) -> DecisionView:
    """Return a decision with the name of its stage, and made again."""
    again = replay.outcome_of(replay.recompute(row.evidence))
    version = min(row.rule_version, replay.RULE_VERSION)
    recomputed = Recomputed(again.verdict.value, again.code, again.reason, again.figures, version)
    made = (again.verdict.value, again.code, again.reason, again.figures)
    agrees = made == (row.verdict, row.code, row.reason, row.figures)
    return DecisionView(
        id=row.id or 0,
        at=row.at,
        stage=stage,
        stratum=row.stratum,
        verdict=row.verdict,
        code=row.code,
        reason=row.reason,
        rule=row.rule,
        rule_version=row.rule_version,
        figures=row.figures,
        evidence=row.evidence,
        actor=row.actor,
        recomputed=recomputed,
        agrees=agrees,
    )
