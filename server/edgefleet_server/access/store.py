"""The only place with SQL of the access feature."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import func, insert, select, update
from sqlmodel import Session, col

from edgefleet_server.access.tables import AuditRow, TokenRow
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


def add_audit(session: Session, values: Mapping[str, Any]) -> None:
    """Append one audit row."""
    session.execute(insert(AuditRow).values(**values))


def list_audit(session: Session, page: PageRequest) -> Page[AuditRow]:
    """Return one page of audit rows, newest first."""
    query = select(AuditRow).order_by(col(AuditRow.id).desc()).limit(page.limit + 1)
    after = page.after_number()
    if after is not None:
        query = query.where(col(AuditRow.id) < after)
    total = session.scalar(select(func.count()).select_from(AuditRow)) or 0
    return cut_page(list(session.scalars(query)), page, total, lambda row: str(row.id))
