"""The only place with SQL of the conversion feature."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import and_, delete, func, or_, select, tuple_, update
from sqlalchemy.orm import defer
from sqlmodel import Session, col

from edgefleet_protocol.ids import ReleaseRef
from edgefleet_server.conversion.model import JobState, Waiting, Work
from edgefleet_server.conversion.tables import JobRow


def add(session: Session, row: JobRow) -> None:
    """Insert a job."""
    session.add(row)
    session.flush()


def jobs_of(session: Session, refs: Sequence[ReleaseRef]) -> list[JobRow]:
    """Return the jobs of releases, oldest first, without their specs: a release is asked for several times a second."""
    if not refs:
        return []
    pairs = [(ref.model, ref.version) for ref in refs]
    query = select(JobRow).where(tuple_(col(JobRow.model), col(JobRow.version)).in_(pairs)).order_by(col(JobRow.id))
    return list(session.scalars(query.options(defer(JobRow.spec))))  # type: ignore[arg-type]


def has_claimable(session: Session, now: datetime) -> bool:
    """Return whether a job waits, without locking anything."""
    return session.scalar(select(col(JobRow.id)).where(_claimable(now)).limit(1)) is not None


def waiting_releases(session: Session, now: datetime) -> list[Waiting]:
    """Return the releases with jobs that wait or whose worker went silent."""
    query = (
        select(col(JobRow.model), col(JobRow.version), func.min(col(JobRow.id)), func.min(col(JobRow.queued_at)))
        .where(_claimable(now))
        .group_by(col(JobRow.model), col(JobRow.version))
    )
    return [Waiting(*row) for row in session.execute(query)]


def waiting_jobs(session: Session, limit: int) -> list[Waiting]:
    """Return the jobs that wait, oldest first, each as a release with one job."""
    query = (
        select(col(JobRow.model), col(JobRow.version), col(JobRow.id), col(JobRow.queued_at))
        .where(col(JobRow.state) == JobState.QUEUED)
        .order_by(col(JobRow.id))
        .limit(limit)
    )
    return [Waiting(*row) for row in session.execute(query)]


def work_since(session: Session, since: datetime) -> list[Work]:
    """Return what jobs that were begun since a time have used of workers."""
    query = select(col(JobRow.model), col(JobRow.version), col(JobRow.started_at), col(JobRow.finished_at)).where(
        col(JobRow.started_at) >= since
    )
    return [Work(*row) for row in session.execute(query)]


def ended_between(session: Session, since: datetime, until: datetime) -> list[tuple[str, datetime, datetime]]:
    """Return (model, begin, end) of the last attempts of jobs that ended in a span."""
    ended = (col(JobRow.started_at).is_not(None), col(JobRow.finished_at) >= since, col(JobRow.finished_at) < until)
    query = select(col(JobRow.model), col(JobRow.started_at), col(JobRow.finished_at)).where(*ended)
    return [(model, begun, done) for model, begun, done in session.execute(query)]


def next_claimable(session: Session, now: datetime, release: Waiting | None = None) -> JobRow | None:
    """Return the oldest job (of a release) that waits or whose worker went silent, locked; jobs locked by others are skipped."""
    query = select(JobRow).where(_claimable(now))
    if release is not None:
        query = query.where(col(JobRow.model) == release.model, col(JobRow.version) == release.version)
    query = query.order_by(col(JobRow.id)).limit(1).with_for_update(skip_locked=True)
    return session.scalars(query).one_or_none()


def change_held(session: Session, job_id: int, attempt: int, worker: str, values: dict[str, Any]) -> bool:
    """Change a running job if this worker still holds it; return whether it did."""
    statement = (
        update(JobRow)
        .where(
            col(JobRow.id) == job_id,
            col(JobRow.attempt) == attempt,
            col(JobRow.worker) == worker,
            col(JobRow.state) == JobState.RUNNING,
        )
        .values(**values)
        .execution_options(synchronize_session=False)
    )
    return bool(session.execute(statement).rowcount)  # type: ignore[attr-defined]


def ends_search(session: Session, job_id: int, attempt: int, worker: str) -> bool | None:
    """Return whether the search of a running job was asked to end; None when this worker does not hold it any more."""
    query = select(col(JobRow.ends_search)).where(
        col(JobRow.id) == job_id,
        col(JobRow.attempt) == attempt,
        col(JobRow.worker) == worker,
        col(JobRow.state) == JobState.RUNNING,
    )
    return session.scalar(query)


def newest_with_key(session: Session, key: str) -> JobRow | None:
    """Return the newest job of this content that ended as done or refused."""
    ended = col(JobRow.state).in_((JobState.DONE, JobState.REFUSED))
    return session.scalars(
        select(JobRow).where(col(JobRow.key) == key, ended).order_by(col(JobRow.id).desc()).limit(1)
    ).one_or_none()


def change_in_states(session: Session, ref: ReleaseRef, states: Sequence[JobState], values: dict[str, Any]) -> int:
    """Change the jobs of a release that are in one of `states`; return how many."""
    statement = (
        update(JobRow)
        .where(col(JobRow.model) == ref.model, col(JobRow.version) == ref.version, col(JobRow.state).in_(states))
        .values(**values)
        .execution_options(synchronize_session=False)
    )
    return int(session.execute(statement).rowcount)  # type: ignore[attr-defined]


def remove(session: Session, ref: ReleaseRef) -> None:
    """Remove the jobs of a release."""
    session.execute(delete(JobRow).where(col(JobRow.model) == ref.model, col(JobRow.version) == ref.version))


def reports(session: Session) -> set[str]:
    """Return the digests of all reports that jobs name."""
    return set(session.scalars(select(col(JobRow.report)).where(col(JobRow.report) != "")))


def count_by_state(session: Session) -> dict[str, int]:
    """Return the number of jobs in each state."""
    rows = session.execute(select(col(JobRow.state), func.count()).group_by(col(JobRow.state)))
    return {str(state): int(count) for state, count in rows}


def _claimable(now: datetime) -> Any:
    silent = and_(col(JobRow.state) == JobState.RUNNING, col(JobRow.lease_until) < now)
    return or_(col(JobRow.state) == JobState.QUEUED, silent)
