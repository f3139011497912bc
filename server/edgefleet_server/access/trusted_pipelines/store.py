"""SQL about trusted pipelines and the tokens they were given."""

from datetime import datetime

from sqlalchemy import delete, select, update
from sqlalchemy.exc import IntegrityError
from sqlmodel import Session, col

from edgefleet_server.access.tables import (
    LoginLinkRow,
    PipelineRow,
    PipelineTokenRow,
    SessionRow,
    TokenRow,
)


def pipelines(session: Session) -> list[PipelineRow]:
    """Return all trusted pipelines by name."""
    return list(session.scalars(select(PipelineRow).order_by(col(PipelineRow.name))))


def find(session: Session, name: str) -> PipelineRow | None:
    """Return a trusted pipeline's row."""
    return session.get(PipelineRow, name)


def add(session: Session, row: PipelineRow | PipelineTokenRow) -> bool:
    """Add a row; False where there is one with its key."""
    try:
        with session.begin_nested():
            session.add(row)
            session.flush()
    except IntegrityError:
        return False
    return True


def use(session: Session, name: str, repository_id: str, now: datetime) -> bool:
    """Note a use, and the repository's id where there was none; False where the pipeline is gone, or of another repository since."""
    own = col(PipelineRow.repository_id)
    mine = update(PipelineRow).where(col(PipelineRow.name) == name, own.in_(("", repository_id)))
    done = session.execute(mine.values(repository_id=repository_id, last_used_at=now))
    return int(done.rowcount) == 1  # type: ignore[attr-defined]


def delete_pipeline(session: Session, name: str, now: datetime) -> None:
    """Remove a trusted pipeline, and revoke what it was given. The ID tokens stay used."""
    mine = select(col(PipelineTokenRow.token_id)).where(col(PipelineTokenRow.pipeline) == name)
    _end_logins(session, list(session.scalars(mine)))
    live = update(TokenRow).where(col(TokenRow.id).in_(mine), col(TokenRow.revoked_at).is_(None))
    session.execute(live.values(revoked_at=now))
    session.execute(delete(PipelineRow).where(col(PipelineRow.name) == name))


def forget_ended(session: Session, now: datetime) -> None:
    """Remove operator tokens that pipelines were given, and the ID tokens they gave for them, once both have ended."""
    ended = col(PipelineTokenRow.ends_at) <= now
    tokens = list(session.scalars(select(col(PipelineTokenRow.token_id)).where(ended).limit(500)))
    if tokens:
        _end_logins(session, tokens)
        session.execute(delete(TokenRow).where(col(TokenRow.id).in_(tokens)))
        session.execute(delete(PipelineTokenRow).where(col(PipelineTokenRow.token_id).in_(tokens)))


def _end_logins(session: Session, tokens: list[str]) -> None:
    for table in (LoginLinkRow, SessionRow):
        session.execute(delete(table).where(col(table.token_id).in_(tokens)))
