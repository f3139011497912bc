"""The SQL of objectives. Every function works in the caller's session and never commits."""

from collections.abc import Mapping, Sequence
from typing import Final

from sqlalchemy import Table, and_, delete, func, or_, select
from sqlmodel import Session, col

from edgefleet_server.db.bulk import insert_into
from edgefleet_server.objectives.errors import SloUnknownError
from edgefleet_server.objectives.tables import Objective, ObjectiveSample

_SAMPLE: Final[Table] = ObjectiveSample.__table__  # type: ignore[attr-defined]


def objectives(session: Session, model: str = "") -> Sequence[Objective]:
    """Return all objectives, or those of a model, by name."""
    statement = select(Objective).order_by(col(Objective.name))
    if model:
        statement = statement.where(col(Objective.model) == model)
    return session.execute(statement).scalars().all()


def count(session: Session) -> int:
    """Return how many objectives there are."""
    return int(session.execute(select(func.count()).select_from(Objective)).scalar_one())


def find(session: Session, name: str) -> Objective | None:
    """Return an objective's row."""
    return session.get(Objective, name, populate_existing=True)


def known(session: Session, name: str) -> Objective:
    """Return an objective's row. Raises SloUnknownError."""
    row = find(session, name)
    if row is None:
        raise SloUnknownError(f"there is no objective {name[:63]!r}", next_step="`edgectl slo list` shows all")
    return row


def remove(session: Session, name: str) -> None:
    """Delete an objective with its samples. Raises SloUnknownError."""
    known(session, name)
    forget_samples(session, name)
    session.execute(delete(Objective).where(col(Objective.name) == name))


def forget_samples(session: Session, name: str) -> None:
    """Delete the samples of an objective."""
    session.execute(delete(ObjectiveSample).where(col(ObjectiveSample.name) == name))


def claim(session: Session, name: str, scale_s: int, at: int) -> bool:
    """Take the step that begins at a time; return whether it is ours: of several processes one counts it."""
    row = {"name": name, "scale_s": scale_s, "at": at, "good": 0, "total": 0}
    made = insert_into(session, ObjectiveSample).values(row).on_conflict_do_nothing()
    return session.execute(made.returning(col(ObjectiveSample.at))).first() is not None


def add(session: Session, name: str, steps: Mapping[int, int], good: int, total: int) -> None:
    """Add events to steps. steps: where each begins, by scale."""
    for scale_s, at in steps.items():
        row = {"name": name, "scale_s": scale_s, "at": at, "good": good, "total": total}
        statement = insert_into(session, ObjectiveSample).values(row)
        sums = {"good": _SAMPLE.c.good + good, "total": _SAMPLE.c.total + total}
        session.execute(statement.on_conflict_do_update(index_elements=["name", "scale_s", "at"], set_=sums))


def samples(session: Session, name: str, scale_s: int, since: int, until: int) -> list[tuple[int, int, int]]:
    """Return (beginning, good, total) of the steps that began in a span of time, oldest first."""
    row = ObjectiveSample
    statement = (
        select(col(row.at), col(row.good), col(row.total))
        .where(col(row.name) == name, col(row.scale_s) == scale_s, col(row.at) >= since, col(row.at) < until)
        .order_by(col(row.at))
    )
    return [(int(at), int(good), int(total)) for at, good, total in session.execute(statement)]


def prune(session: Session, before: Mapping[int, int]) -> int:
    """Remove steps that began before a moment, by scale; return how many."""
    row = ObjectiveSample
    old = [and_(col(row.scale_s) == scale_s, col(row.at) < at) for scale_s, at in before.items()]
    done = session.execute(delete(row).where(or_(*old)))
    return int(done.rowcount)  # type: ignore[attr-defined]
