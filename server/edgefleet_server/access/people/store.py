"""SQL about people and services. Tokens and their sessions are in the store of the access feature."""

from collections.abc import Collection
from datetime import datetime
from typing import Any

from sqlalchemy import delete, func, or_, select, update
from sqlmodel import Session, col

from edgefleet_server.access.accounts.tables import InvitationRow
from edgefleet_server.access.tables import LoginLinkRow, PersonRow, PipelineRow, SessionRow, TokenRow
from edgefleet_server.db.keyset import Page, PageRequest, cut_page, walked


def find_person(session: Session, key: str, *, lock: bool = False) -> PersonRow | None:
    """Return a person by id, else by name. lock: nobody else changes the row until the transaction ends."""
    found = session.get(PersonRow, key) or named(session, key)
    if found is not None and lock:
        session.refresh(found, with_for_update=True)
    return found


def named(session: Session, name: str) -> PersonRow | None:
    """Return a person by name."""
    return session.scalars(select(PersonRow).where(col(PersonRow.name) == name)).first()


def list_people(session: Session, page: PageRequest) -> Page[PersonRow]:
    """Return one page of people by name."""
    query = walked(select(PersonRow), col(PersonRow.name), page.after, page.limit + 1, is_down=page.is_turned)
    total = session.scalar(select(func.count()).select_from(PersonRow)) or 0
    return cut_page(list(session.scalars(query)), page, total, lambda row: row.name)


def count_tokens(session: Session, people: Collection[str], now: datetime) -> dict[str, int]:
    """Return how many tokens in force each of these people has; who has none is left out."""
    own = col(TokenRow.person_id)
    in_force = or_(col(TokenRow.expires_at).is_(None), col(TokenRow.expires_at) > now)
    query = select(own, func.count()).where(own.in_(people), col(TokenRow.revoked_at).is_(None), in_force)
    return {person: count for person, count in session.execute(query.group_by(own)) if person is not None}


def tokens_of(session: Session, person: str, now: datetime) -> list[TokenRow]:
    """Return a person's tokens in force."""
    in_force = or_(col(TokenRow.expires_at).is_(None), col(TokenRow.expires_at) > now)
    mine = select(TokenRow).where(col(TokenRow.person_id) == person, col(TokenRow.revoked_at).is_(None), in_force)
    return list(session.scalars(mine.order_by(col(TokenRow.id))))


def granted(session: Session, now: datetime) -> list[tuple[str, list[dict[str, Any]]]]:
    """Return what is granted to people, to tokens in force and to trusted pipelines, by the name of each."""
    in_force = or_(col(TokenRow.expires_at).is_(None), col(TokenRow.expires_at) > now)
    tokens = select(col(TokenRow.name), col(TokenRow.grants)).where(col(TokenRow.revoked_at).is_(None), in_force)
    people, pipelines = (select(col(table.name), col(table.grants)) for table in (PersonRow, PipelineRow))
    rows = [*session.execute(people), *session.execute(pipelines), *session.execute(tokens)]
    return [(str(name), grants) for name, grants in rows if grants]


def end_all_of(session: Session, person: str, now: datetime) -> None:
    """Revoke a person's tokens, remove the login links and sessions that rest on them, and the one-time code of the account."""
    mine = select(col(TokenRow.id)).where(col(TokenRow.person_id) == person)
    for table in (LoginLinkRow, SessionRow):
        session.execute(delete(table).where(col(table.token_id).in_(mine)))
    session.execute(delete(InvitationRow).where(col(InvitationRow.person_id) == person))
    live = update(TokenRow).where(col(TokenRow.person_id) == person, col(TokenRow.revoked_at).is_(None))
    session.execute(live.values(revoked_at=now))
