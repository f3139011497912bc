"""SQL of questions whether failures are confirmed. Every function works in the caller's session and never commits."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec
from sqlalchemy import or_, select, update
from sqlmodel import Session, col

from edgefleet_server.rollout.analysis.confirmation import ALIVE
from edgefleet_server.rollout.model import Confirmation, Proof, RolloutState
from edgefleet_server.rollout.state_machines import ROLLOUT_WALKS
from edgefleet_server.rollout.store.tables import Rollout, RolloutConfirmation

LEASE: Final = timedelta(minutes=10)
"""Longer than the check of a bundle may take."""
_C = RolloutConfirmation
_ASKED: Final = (*ROLLOUT_WALKS, RolloutState.PAUSED, RolloutState.FINISHED, RolloutState.REGRESSED)


@dataclass(frozen=True, slots=True)
class DueProof:
    """A bundle that the server is to check itself."""

    rollout: str
    model: str
    version: str
    confirmation: Confirmation


def of_rollout(session: Session, rollout_id: str) -> tuple[Confirmation, ...]:
    """Return what others were asked about in a rollout, in order of stratum and number."""
    statement = (
        select(col(_C.body), col(_C.proof))  # columns, not objects: each look at a rollout asks this
        .where(col(_C.rollout_id) == rollout_id)
        .order_by(col(_C.stratum), col(_C.number))
    )
    return tuple(_confirmation(body, proof) for body, proof in session.execute(statement))


def save(session: Session, rollout_id: str, one: Confirmation) -> None:
    """Write a question; a proof that was written meanwhile stays."""
    body = msgspec.to_builtins(msgspec.structs.replace(one, proof=None))
    row = session.get(_C, (rollout_id, one.stratum, one.number))
    if row is None:
        row = _C(
            rollout_id=rollout_id,
            stratum=one.stratum,
            number=one.number,
            verdict=one.verdict.value,
            needs_proof=one.needs_proof,
            body=body,
        )
    row.verdict, row.body = one.verdict.value, body
    session.add(row)


def is_any_due(session: Session, now: datetime) -> bool:
    """Return whether a bundle is to be checked: a look that waits for no writer."""
    return session.execute(_due(now).limit(1)).first() is not None


def claim(session: Session, now: datetime) -> DueProof | None:
    """Take a bundle that is to be checked and that nobody checks just now. The caller commits at once."""
    found = session.execute(_due(now).limit(1).with_for_update(skip_locked=True, of=_C)).first()
    if found is None:
        return None
    row, rollout = found
    row.lease_until = now + LEASE
    return DueProof(rollout.id, rollout.model, rollout.version, _confirmation(row.body, row.proof))


def note(session: Session, due: DueProof, proof: Proof) -> None:
    """Write what the check of a bundle found."""
    one = due.confirmation
    session.execute(
        update(_C)
        .where(col(_C.rollout_id) == due.rollout, col(_C.stratum) == one.stratum, col(_C.number) == one.number)
        .values(proof=msgspec.to_builtins(proof), lease_until=None)
    )


def _due(now: datetime) -> Any:
    return (
        select(_C, Rollout)
        .join(Rollout, col(Rollout.id) == col(_C.rollout_id))
        .where(
            col(_C.verdict).in_([one.value for one in ALIVE]),
            col(_C.needs_proof).is_(True),
            col(Rollout.state).in_([state.value for state in _ASKED]),
            col(_C.proof).is_(None),
            or_(col(_C.lease_until).is_(None), col(_C.lease_until) <= now),
        )
        .order_by(col(_C.rollout_id))
    )


def _confirmation(body: Mapping[str, Any], proof: Mapping[str, Any] | None) -> Confirmation:
    return msgspec.convert({**body, "proof": proof}, Confirmation)
