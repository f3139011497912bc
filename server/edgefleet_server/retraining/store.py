"""The SQL of retraining. Every function works in the caller's session and never commits."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import and_, delete, func, or_, select
from sqlmodel import Session, col

from edgefleet_server.encryption.model import SealedColumn, SealedValue
from edgefleet_server.encryption.service import Sealer
from edgefleet_server.retraining.errors import RetrainingUnknownError, TriggerUnknownError
from edgefleet_server.retraining.model import OPEN, DriftAfter, LauncherKind, RunState
from edgefleet_server.retraining.tables import RetrainingRun, RetrainingSecret, RetrainingTrigger

SEALED: Final = SealedColumn("secret of a launcher", "retraining_secret", "secret", ("trigger",), "set_at")
_OPEN: Final = [one.value for one in OPEN]
_R = RetrainingRun


@dataclass(frozen=True, slots=True)
class Started:
    """A retraining, for the rules of one trigger. is_mine: that one started it; is_own: by itself; at: when."""

    id: str
    is_open: bool
    is_mine: bool
    is_own: bool
    at: datetime


# ---- triggers


def triggers(session: Session, model: str = "") -> Sequence[RetrainingTrigger]:
    """Return all triggers, or those of a model, by name."""
    statement = select(RetrainingTrigger).order_by(col(RetrainingTrigger.name))
    if model:
        statement = statement.where(col(RetrainingTrigger.model) == model)
    return session.execute(statement).scalars().all()


def count_triggers(session: Session) -> int:
    """Return how many triggers there are."""
    return int(session.execute(select(func.count()).select_from(RetrainingTrigger)).scalar_one())


def find_trigger(session: Session, name: str, *, lock: bool = False) -> RetrainingTrigger | None:
    """Return a trigger's row. lock: nobody else changes it until the transaction ends."""
    return session.get(RetrainingTrigger, name, with_for_update=lock or None, populate_existing=True)


def known_trigger(session: Session, name: str, *, lock: bool = False) -> RetrainingTrigger:
    """Return a trigger's row. Raises TriggerUnknownError."""
    row = find_trigger(session, name, lock=lock)
    if row is None:
        raise TriggerUnknownError(f"there is no trigger {name[:63]!r}", next_step="`edgectl trigger list` shows all")
    return row


def lock_model(session: Session, model: str) -> Sequence[RetrainingTrigger]:
    """Return the triggers of a model, by name; until the transaction ends nobody else starts a retraining of it."""
    statement = select(RetrainingTrigger).where(col(RetrainingTrigger.model) == model)
    locked = statement.order_by(col(RetrainingTrigger.name)).with_for_update().execution_options(populate_existing=True)
    return session.execute(locked).scalars().all()


def remove_trigger(session: Session, name: str) -> None:
    """Delete a trigger and its secret; its retrainings stay."""
    session.execute(delete(RetrainingSecret).where(col(RetrainingSecret.trigger) == name))
    session.execute(delete(RetrainingTrigger).where(col(RetrainingTrigger.name) == name))


def set_secret(session: Session, sealer: Sealer, name: str, secret: str, now: datetime) -> None:
    """Seal the secret of a trigger's launcher, and put it in the place of the one before; "" removes it."""
    if not secret:
        session.execute(delete(RetrainingSecret).where(col(RetrainingSecret.trigger) == name))
        return
    sealed = sealer.seal(SEALED.place(name), secret)
    session.merge(RetrainingSecret(trigger=name, secret=sealed, set_at=now))
    session.flush()


def secret_of(session: Session, name: str) -> SealedValue | None:
    """Return the sealed secret of a trigger's launcher, None without one."""
    row = session.get(RetrainingSecret, name)
    return None if row is None else SealedValue(SEALED.place(name), row.secret)


def with_secret(session: Session) -> frozenset[str]:
    """Return the names of the triggers whose launcher has a secret."""
    return frozenset(session.execute(select(col(RetrainingSecret.trigger))).scalars())


# ---- retrainings


def find_run(session: Session, run_id: str, *, lock: bool = False) -> RetrainingRun | None:
    """Return a retraining's row. lock: nobody else changes it until the transaction ends."""
    return session.get(RetrainingRun, run_id, with_for_update=lock or None, populate_existing=True)


def known_run(session: Session, run_id: str, *, lock: bool = False) -> RetrainingRun:
    """Return a retraining's row. Raises RetrainingUnknownError."""
    row = find_run(session, run_id, lock=lock)
    if row is None:
        raise RetrainingUnknownError(
            f"there is no retraining {run_id[:40]!r}", next_step="`edgectl retrain list` shows all"
        )
    return row


def open_run(session: Session, model: str) -> str:
    """Return the id of the retraining of a model that has not ended, "" without one."""
    statement = select(col(_R.id)).where(col(_R.model) == model, col(_R.state).in_(_OPEN)).order_by(col(_R.id))
    return session.execute(statement.limit(1)).scalar_one_or_none() or ""


def open_of_trigger(session: Session, trigger: str) -> str:
    """Return the id of the retraining of a trigger that has not ended, "" without one."""
    statement = select(col(_R.id)).where(col(_R.trigger) == trigger, col(_R.state).in_(_OPEN)).order_by(col(_R.id))
    return session.execute(statement.limit(1)).scalar_one_or_none() or ""


def history(session: Session, model: str, trigger: str, since: datetime) -> list[Started]:
    """Return a model's open retrainings, and a trigger's after a moment, in the order of their ids."""
    mine = and_(col(_R.trigger) == trigger, col(_R.created_at) > since)
    columns = (col(_R.id), col(_R.state), col(_R.trigger), col(_R.is_own), col(_R.created_at))
    statement = select(*columns).where(col(_R.model) == model, or_(col(_R.state).in_(_OPEN), mine)).order_by(col(_R.id))
    return [
        Started(run, state in _OPEN, of == trigger, of == trigger and is_own, at)
        for run, state, of, is_own, at in session.execute(statement)
    ]


def runs_page(
    session: Session, *, model: str, trigger: str, states: Collection[str], after: str | None, is_up: bool, limit: int
) -> tuple[Sequence[RetrainingRun], int]:
    """Return retrainings after one in the order of the list (newest first unless `is_up`), and how many there are."""
    wanted = []
    if model:
        wanted.append(col(_R.model) == model)
    if trigger:
        wanted.append(col(_R.trigger) == trigger)
    if states:
        wanted.append(col(_R.state).in_(states))
    total = int(session.execute(select(func.count()).select_from(_R).where(*wanted)).scalar_one())
    if after is not None:
        wanted.append(col(_R.id) > after if is_up else col(_R.id) < after)
    order = col(_R.id).asc() if is_up else col(_R.id).desc()
    return session.execute(select(_R).where(*wanted).order_by(order).limit(limit)).scalars().all(), total


def to_lease(session: Session, model: str, now: datetime) -> RetrainingRun | None:
    """Return the retraining of a model that has waited longest for a runner, locked; None when there is none, or others take it now."""
    is_lost = and_(col(_R.state) == RunState.TRAINING.value, col(_R.lease_until) <= now)
    is_queued = and_(col(_R.state) == RunState.QUEUED.value, or_(col(_R.next_at).is_(None), col(_R.next_at) <= now))
    is_waiting = or_(is_queued, is_lost)
    mine = (col(_R.model) == model, col(_R.launcher) == LauncherKind.RUNNER.value)
    statement = select(_R).where(*mine, is_waiting).order_by(col(_R.id)).limit(1).with_for_update(skip_locked=True)
    return session.execute(statement.execution_options(populate_existing=True)).scalars().first()


def open_ids(session: Session) -> list[str]:
    """Return the retrainings at which the engine looks: those that have not ended, and those whose cause is still followed."""
    is_followed = col(_R.drift_state) == DriftAfter.WAITING.value
    statement = select(col(_R.id)).where(or_(col(_R.state).in_(_OPEN), is_followed)).order_by(col(_R.id))
    return list(session.execute(statement).scalars())


def counts(session: Session) -> dict[str, int]:
    """Return how many retrainings there are by state."""
    return {state: int(n) for state, n in session.execute(select(col(_R.state), func.count()).group_by(col(_R.state)))}
