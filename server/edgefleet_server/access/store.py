"""The only place with SQL of the access feature."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, delete, func, insert, select, tuple_, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import Session, col

from edgefleet_server.access.model import AuditFilter
from edgefleet_server.access.tables import AuditRow, LoginLinkRow, RepeatRow, SessionRow, TokenRow
from edgefleet_server.paging import Page, PageRequest, cut_page


def find_token(session: Session, token_id: str) -> TokenRow | None:
    """Return a token's row."""
    return session.get(TokenRow, token_id)


def list_tokens(session: Session, page: PageRequest) -> Page[TokenRow]:
    """Return one page of tokens by id."""
    query = select(TokenRow).order_by(col(TokenRow.id)).limit(page.limit + 1)
    if page.after is not None:
        query = query.where(col(TokenRow.id) > page.after)
    total = session.scalar(select(func.count()).select_from(TokenRow)) or 0
    return cut_page(list(session.scalars(query)), page, total, lambda row: row.id)


def mark_used(session: Session, token_id: str, now: datetime) -> None:
    """Remember when a token was last used."""
    session.execute(update(TokenRow).where(col(TokenRow.id) == token_id).values(last_used_at=now))


def find_link(session: Session, link_id: str) -> LoginLinkRow | None:
    """Return a login link's row."""
    return session.get(LoginLinkRow, link_id)


def take_link(session: Session, link_id: str) -> bool:
    """Delete a login link; False when it was gone already. One statement, so two browsers cannot use the same link."""
    done = session.execute(delete(LoginLinkRow).where(col(LoginLinkRow.id) == link_id))
    return int(done.rowcount) == 1  # type: ignore[attr-defined]


def find_session(session: Session, session_id: str) -> SessionRow | None:
    """Return a browser session's row."""
    return session.get(SessionRow, session_id)


def delete_session(session: Session, session_id: str) -> None:
    """Remove a browser session."""
    session.execute(delete(SessionRow).where(col(SessionRow.id) == session_id))


def delete_logins_of(session: Session, token_id: str) -> None:
    """Remove every login link and browser session that rests on a token."""
    for table in (LoginLinkRow, SessionRow):
        session.execute(delete(table).where(col(table.token_id) == token_id))


def delete_expired_logins(session: Session, now: datetime) -> None:
    """Remove login links and browser sessions whose time is over."""
    for table in (LoginLinkRow, SessionRow):
        session.execute(delete(table).where(col(table.expires_at) <= now))


def keep_newest(session: Session, table: type[LoginLinkRow] | type[SessionRow], token_id: str, keep: int) -> None:
    """Remove all but the `keep` newest links or sessions of a token."""
    mine = select(col(table.id)).where(col(table.token_id) == token_id)
    old = session.scalars(mine.order_by(col(table.created_at).desc(), col(table.id)).offset(keep)).all()
    if old:
        session.execute(delete(table).where(col(table.id).in_(old)))


def add_audit(session: Session, values: Mapping[str, Any]) -> None:
    """Append one audit row."""
    session.execute(insert(AuditRow).values(**values))


def list_audit(session: Session, page: PageRequest, what: AuditFilter) -> Page[AuditRow]:
    """Return one page of the audit rows that a filter chooses, newest first."""
    chosen = _chosen(what)
    query = select(AuditRow).where(*chosen).order_by(col(AuditRow.id).desc()).limit(page.limit + 1)
    after = page.after_number()
    if after is not None:
        query = query.where(col(AuditRow.id) < after)
    total = session.scalar(select(func.count()).select_from(AuditRow).where(*chosen)) or 0
    return cut_page(list(session.scalars(query)), page, total, lambda row: str(row.id))


def _chosen(what: AuditFilter) -> list[ColumnElement[bool]]:
    row = AuditRow
    chosen: list[ColumnElement[bool]] = []
    if what.actor:
        chosen.append(col(row.actor).startswith(what.actor, autoescape=True))
    if what.action:
        chosen.append(col(row.action) == what.action)
    if what.object:
        chosen.append(col(row.object).startswith(what.object, autoescape=True))
    if what.since is not None:
        chosen.append(col(row.at) >= what.since)
    if what.until is not None:
        chosen.append(col(row.at) < what.until)
    return chosen


def add_repeat(session: Session, token_id: str, key_sha256: str, request_sha256: str, now: datetime) -> bool:
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


def find_repeat(session: Session, token_id: str, key_sha256: str) -> RepeatRow | None:
    """Return the row of an idempotency key."""
    return session.get(RepeatRow, (token_id, key_sha256), populate_existing=True)


def fill_repeat(session: Session, token_id: str, key_sha256: str, status: int, sealed: bytes) -> None:
    """Store the answer of an idempotency key."""
    mine = (col(RepeatRow.token_id) == token_id, col(RepeatRow.key_sha256) == key_sha256)
    session.execute(update(RepeatRow).where(*mine).values(status=status, sealed=sealed))


def forget_repeat(session: Session, token_id: str, key_sha256: str, *, before: datetime | None = None) -> None:
    """Remove an idempotency key, or only when it is older than `before`."""
    mine = [col(RepeatRow.token_id) == token_id, col(RepeatRow.key_sha256) == key_sha256]
    if before is not None:
        mine.append(col(RepeatRow.created_at) < before)
    session.execute(delete(RepeatRow).where(*mine))


def prune_repeats(session: Session, before: datetime, limit: int) -> int:
    """Remove up to `limit` idempotency keys that are older than a moment; return how many."""
    key = tuple_(col(RepeatRow.token_id), col(RepeatRow.key_sha256))
    old = select(col(RepeatRow.token_id), col(RepeatRow.key_sha256)).where(col(RepeatRow.created_at) < before)
    done = session.execute(delete(RepeatRow).where(key.in_(old.limit(limit))))
    return int(done.rowcount)  # type: ignore[attr-defined]
