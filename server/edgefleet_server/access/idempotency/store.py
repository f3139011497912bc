"""SQL of answers that are kept for requests that come again. Nothing else reads that table."""

from datetime import datetime

from sqlalchemy import delete, select, tuple_, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import Session, col

from edgefleet_server.access.tables import RepeatRow


def add(session: Session, token_id: str, key_sha256: str, request_sha256: str, now: datetime) -> bool:
    """Take an idempotency key; False when it is taken. One statement, so two requests cannot both have it."""
    dialect = session.get_bind().dialect.name
    make = sqlite.insert(RepeatRow) if dialect == "sqlite" else postgresql.insert(RepeatRow)
    values = {
        "token_id": token_id,
        "key_sha256": key_sha256,
        "request_sha256": request_sha256,
        "created_at": now,
        "sealed": b"",
    }
    statement = make.values(**values).on_conflict_do_nothing().returning(col(RepeatRow.token_id))
    return session.execute(statement).first() is not None


def find(session: Session, token_id: str, key_sha256: str) -> RepeatRow | None:
    """Return the row of an idempotency key."""
    return session.get(RepeatRow, (token_id, key_sha256), populate_existing=True)


def fill(session: Session, token_id: str, key_sha256: str, status: int, sealed: bytes) -> None:
    """Store the answer of an idempotency key."""
    mine = (col(RepeatRow.token_id) == token_id, col(RepeatRow.key_sha256) == key_sha256)
    session.execute(update(RepeatRow).where(*mine).values(status=status, sealed=sealed))


def forget(session: Session, token_id: str, key_sha256: str, *, before: datetime | None = None) -> None:
    """Remove an idempotency key, or only when it is older than `before`."""
    mine = [col(RepeatRow.token_id) == token_id, col(RepeatRow.key_sha256) == key_sha256]
    if before is not None:
        mine.append(col(RepeatRow.created_at) < before)
    session.execute(delete(RepeatRow).where(*mine))


def prune(session: Session, before: datetime, limit: int) -> int:
    """Remove up to `limit` idempotency keys that are older than a moment; return how many."""
    key = tuple_(col(RepeatRow.token_id), col(RepeatRow.key_sha256))
    old = select(col(RepeatRow.token_id), col(RepeatRow.key_sha256)).where(col(RepeatRow.created_at) < before)
    done = session.execute(delete(RepeatRow).where(key.in_(old.limit(limit))))
    return int(done.rowcount)  # type: ignore[attr-defined]
