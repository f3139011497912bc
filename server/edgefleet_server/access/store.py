"""The only place with SQL of the access feature."""

from dataclasses import replace
from datetime import datetime
from typing import Any, Final

from sqlalchemy import ColumnElement, bindparam, delete, func, or_, select, update
from sqlmodel import Session, col

from edgefleet_server.access.accounts.tables import InvitationRow
from edgefleet_server.access.grants.rules import loaded, loaded_limits
from edgefleet_server.access.identities.tables import IdentityRow
from edgefleet_server.access.model import AuditFilter, Owner, PersonKind, SignedIn
from edgefleet_server.access.tables import AuditRow, LoginLinkRow, PersonRow, PipelineTokenRow, SessionRow, TokenRow
from edgefleet_server.db.keyset import Page, PageRequest, cut_page, walked

_SIGNED_IN: Final = (
    select(  # type: ignore[call-overload]  # more columns than its overloads have
        SessionRow.id, SessionRow.secret_sha256, SessionRow.expires_at, TokenRow.id, TokenRow.name, TokenRow.roles,
        TokenRow.expires_at, TokenRow.revoked_at, TokenRow.grants,
        PersonRow.id, PersonRow.name, PersonRow.kind, PersonRow.disabled_at, PersonRow.grants,
    )
    .join(TokenRow, col(TokenRow.id) == col(SessionRow.token_id))
    .outerjoin(PersonRow, col(PersonRow.id) == col(TokenRow.person_id))
    .where(col(SessionRow.id) == bindparam("id"))
)  # fmt: skip
"""Made once: each page asks it."""
_OWNED: Final = select(  # type: ignore[call-overload]
    TokenRow, PersonRow.id, PersonRow.name, PersonRow.kind, PersonRow.disabled_at, PersonRow.grants
).outerjoin(PersonRow, col(PersonRow.id) == col(TokenRow.person_id))


_SIGN_INS: Final = select(col(IdentityRow.token_id)).where(col(IdentityRow.token_id) != "")


def find_token(session: Session, token_id: str, *, lock: bool = False) -> TokenRow | None:
    """Return a token's row. lock: nobody changes it until the transaction ends."""
    return session.get(TokenRow, token_id, with_for_update=lock, populate_existing=lock)


def count_made_with(session: Session, token_id: str, now: datetime) -> int:
    """Return how many tokens in force were made with a token."""
    in_force = or_(col(TokenRow.expires_at).is_(None), col(TokenRow.expires_at) > now)
    mine = col(TokenRow.made_with) == token_id
    return session.scalar(select(func.count()).where(mine, col(TokenRow.revoked_at).is_(None), in_force)) or 0


def end_made_with(session: Session, token_id: str, now: datetime) -> None:
    """Revoke the tokens that were made with a token, and sign out the browsers that rest on them; "" = nothing."""
    if not token_id:
        return  # the column says "" of all tokens that admins made
    find_token(session, token_id, lock=True)  # one that is being made is there then
    mine = col(TokenRow.made_with) == token_id
    for table in (LoginLinkRow, SessionRow):
        session.execute(delete(table).where(col(table.token_id).in_(select(col(TokenRow.id)).where(mine))))
    session.execute(update(TokenRow).where(mine, col(TokenRow.revoked_at).is_(None)).values(revoked_at=now))


def find_owned_token(session: Session, token_id: str) -> tuple[TokenRow, Owner] | None:
    """Return a token's row and its owner."""
    found = session.execute(_OWNED.where(col(TokenRow.id) == token_id)).first()
    return None if found is None else (found[0], _owner(found[1:]))


def list_tokens(session: Session, page: PageRequest) -> Page[tuple[TokenRow, Owner]]:
    """Return one page of tokens by id, each with its owner."""
    query = walked(_OWNED, col(TokenRow.id), page.after, page.limit + 1, is_down=page.is_turned)
    total = session.scalar(select(func.count()).select_from(TokenRow)) or 0
    rows = [(row[0], _owner(row[1:])) for row in session.execute(query)]
    return cut_page(rows, page, total, lambda row: row[0].id)


def list_ending(session: Session, first: datetime, last: datetime, most: int) -> list[tuple[TokenRow, Owner]]:
    """Return tokens that nobody revoked and that end between two times, the soonest first, of owners who are not disabled."""
    ends = col(TokenRow.expires_at)
    query = _OWNED.where(
        ends > first,
        ends < last,
        col(TokenRow.revoked_at).is_(None),
        col(PersonRow.disabled_at).is_(None),
        col(TokenRow.id).not_in(_SIGN_INS),  # ends with the working day, and the next sign-in renews it
        col(TokenRow.made_with).not_in(_SIGN_INS),
        col(TokenRow.id).not_in(select(col(PipelineTokenRow.token_id))),  # a job's last 15 minutes, and there are many
    )
    return [(row[0], _owner(row[1:])) for row in session.execute(query.order_by(ends, col(TokenRow.id)).limit(most))]


def _owner(found: Any) -> Owner:
    """Return the owner of columns id, name, kind, disabled_at, grants of an outer join."""
    if found[0] is None:
        return Owner()
    return Owner(found[0], found[1], PersonKind(found[2]), found[3], loaded_limits(found[4]))


def mark_used(session: Session, token_id: str, now: datetime) -> None:
    """Remember when a token was last used."""
    session.execute(update(TokenRow).where(col(TokenRow.id) == token_id).values(last_used_at=now))


def accounts(session: Session, now: datetime) -> list[str]:
    """Return the ids of the tokens, login links and one-time codes in force."""
    in_force = or_(col(TokenRow.expires_at).is_(None), col(TokenRow.expires_at) > now)
    tokens = select(col(TokenRow.id)).where(col(TokenRow.revoked_at).is_(None), in_force)
    links = select(col(LoginLinkRow.id)).where(col(LoginLinkRow.expires_at) > now)
    codes = select(col(InvitationRow.id)).where(col(InvitationRow.expires_at) > now)
    return [*session.scalars(tokens), *session.scalars(links), *session.scalars(codes)]


def find_link(session: Session, link_id: str) -> LoginLinkRow | None:
    """Return a login link's row."""
    return session.get(LoginLinkRow, link_id)


def take_link(session: Session, link_id: str) -> bool:
    """Delete a login link; False when it was gone already. One statement, so two browsers cannot use the same link."""
    done = session.execute(delete(LoginLinkRow).where(col(LoginLinkRow.id) == link_id))
    return int(done.rowcount) == 1  # type: ignore[attr-defined]


def find_signed_in(session: Session, session_id: str) -> SignedIn | None:
    """Return a browser session with what its token says now."""
    session.flush()
    found = session.connection().execute(_SIGNED_IN, {"id": session_id}).first()
    return None if found is None else replace(SignedIn(*found[:8]), owner=_owner(found[9:]), scoped=loaded(found[8]))


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


def list_audit(session: Session, page: PageRequest, what: AuditFilter) -> Page[AuditRow]:
    """Return one page of the audit rows that a filter chooses, newest first as usual."""
    chosen = _chosen(what)
    own, after = col(AuditRow.id), page.after_number()
    query = walked(select(AuditRow).where(*chosen), own, after, page.limit + 1, is_down=not page.is_turned)
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
