"""SQL of webhook gates. Every function works in the caller's session."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec
from sqlalchemy import and_, insert, or_, select, update
from sqlmodel import Session, col

from edgefleet_server.rollout.analysis.stage_gates import GATE_CONFIRM, GATE_OPENING
from edgefleet_server.rollout.model import Answered, RolloutState, StageRun, StageState
from edgefleet_server.rollout.spec.model import OPENING, WHILE_OPEN, GateKind, Spec
from edgefleet_server.rollout.state_machines import CELL_OPEN
from edgefleet_server.rollout.store.tables import Rollout, RolloutCell, RolloutGateCall

LEASE: Final = timedelta(seconds=60)
"""Longer than a name service and a gate may take together."""
_G = RolloutGateCall


@dataclass(frozen=True, slots=True)
class DueCall:
    """A gate that is to be asked now. spec: of the rollout as it is stored; calls: how often it was asked before."""

    rollout: str
    name: str
    release: str
    stage: int
    stratum: str
    place: int
    kind: GateKind
    calls: int
    spec: Mapping[str, Any]
    cell_state: str
    cell_reason: str


def prepare(session: Session, rollout_id: str, spec: Spec, made: Sequence[StageRun], now: datetime) -> None:
    """Make the rows of the gates of cells that are new."""
    rows = [
        {
            "rollout_id": rollout_id,
            "stage": cell.stage,
            "stratum": cell.stratum,
            "place": place,
            "kind": gate.kind.value,
            "calls": 0,
            "next_at": now,
        }
        for cell in made
        for place, gate in enumerate(spec.stages[cell.stage].gates)
    ]
    if rows:
        session.execute(insert(_G), rows)


def answers(session: Session, rollout_id: str) -> dict[tuple[int, str], dict[int, Answered]]:
    """Return what the gates of a rollout last said."""
    statement = select(col(_G.stage), col(_G.stratum), col(_G.place), col(_G.answer)).where(
        col(_G.rollout_id) == rollout_id, col(_G.calls) > 0
    )
    found: dict[tuple[int, str], dict[int, Answered]] = {}
    for stage, stratum, place, answer in session.execute(statement):
        if answer is not None:
            found.setdefault((stage, stratum), {})[place] = msgspec.convert(answer, Answered)
    return found


def is_any_due(session: Session, now: datetime) -> bool:
    """Return whether a gate is to be asked: a look that waits for no writer."""
    return session.execute(_due(now).limit(1)).first() is not None


def claim(session: Session, now: datetime, limit: int) -> list[DueCall]:
    """Take gates that are to be asked and that nobody asks just now. The caller commits at once."""
    taken = []
    statement = _due(now).order_by(col(_G.next_at)).limit(limit).with_for_update(skip_locked=True, of=_G)
    for call, rollout, cell in session.execute(statement):
        call.lease_until = now + LEASE
        taken.append(
            DueCall(
                rollout=rollout.id,
                name=rollout.name,
                release=f"{rollout.model}@{rollout.version}",
                stage=call.stage,
                stratum=call.stratum,
                place=call.place,
                kind=GateKind(call.kind),
                calls=call.calls,
                spec=rollout.spec,
                cell_state=cell.state,
                cell_reason=cell.reason,
            )
        )
    return taken


def _due(now: datetime) -> Any:
    """Return the statement for gates whose turn it is, with rollout and cell. Only running rollouts ask."""
    is_open = col(RolloutCell.state).in_([state.value for state in CELL_OPEN])
    is_turn = or_(
        and_(
            col(_G.kind).in_([kind.value for kind in OPENING]),
            col(RolloutCell.state) == StageState.PENDING.value,
            col(RolloutCell.code) == GATE_OPENING,
        ),
        and_(col(_G.kind).in_([kind.value for kind in WHILE_OPEN]), is_open),
        and_(col(_G.kind) == GateKind.CONFIRM_PROMOTION.value, is_open, col(RolloutCell.code) == GATE_CONFIRM),
    )
    mine = and_(
        col(RolloutCell.rollout_id) == col(_G.rollout_id),
        col(RolloutCell.stage) == col(_G.stage),
        col(RolloutCell.stratum) == col(_G.stratum),
    )
    return (
        select(_G, Rollout, RolloutCell)
        .join(Rollout, col(Rollout.id) == col(_G.rollout_id))
        .join(RolloutCell, mine)
        .where(
            col(Rollout.state).in_((RolloutState.RUNNING.value, RolloutState.AWAITING_APPROVAL.value)),
            col(_G.next_at) <= now,
            or_(col(_G.lease_until).is_(None), col(_G.lease_until) <= now),
            is_turn,
        )
    )


def note(session: Session, call: DueCall, answer: Answered, next_at: datetime) -> None:
    """Write what a gate said, unless somebody asked it meanwhile, because this took longer than the lease."""
    session.execute(
        update(_G)
        .where(
            col(_G.rollout_id) == call.rollout,
            col(_G.stage) == call.stage,
            col(_G.stratum) == call.stratum,
            col(_G.place) == call.place,
            col(_G.calls) == call.calls,
        )
        .values(answer=msgspec.to_builtins(answer), calls=call.calls + 1, next_at=next_at, lease_until=None)
    )
