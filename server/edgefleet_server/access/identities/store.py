"""SQL about identities, and about sign-ins that are under way."""

from datetime import datetime
from typing import Final

from sqlalchemy import delete, func, select
from sqlalchemy.exc import IntegrityError
from sqlmodel import Session, col

from edgefleet_server.access.identities.tables import IdentityRow, SignInRow
from edgefleet_server.access.tables import PersonRow, TokenRow
from edgefleet_server.db.keyset import Page, PageRequest, cut_page, walked

MAX_SIGN_INS: Final = 5_000
"""That are under way at the same time; the oldest give way."""
MAX_WAITING: Final = 1_000
"""Identities that wait for an admin."""


def add_sign_in(session: Session, row: SignInRow, now: datetime) -> None:
    """Note a sign-in that begins; forget those that nobody came back from."""
    session.execute(delete(SignInRow).where(col(SignInRow.ends_at) <= now))
    over = (session.scalar(select(func.count()).select_from(SignInRow)) or 0) - MAX_SIGN_INS + 1
    if over > 0:
        oldest = session.scalars(select(col(SignInRow.state_sha256)).order_by(col(SignInRow.ends_at)).limit(over)).all()
        session.execute(delete(SignInRow).where(col(SignInRow.state_sha256).in_(oldest)))
    session.add(row)
    session.flush()


def take_sign_in(session: Session, state_sha256: str, provider: str, now: datetime) -> str | None:
    """End a sign-in and return its page; None when it is over. One statement takes it, so no answer is used twice."""
    row = session.get(SignInRow, state_sha256, populate_existing=True)
    if row is None or row.provider != provider or row.ends_at <= now:
        return None
    page = row.next_page
    done = session.execute(delete(SignInRow).where(col(SignInRow.state_sha256) == state_sha256))
    return page if int(done.rowcount) == 1 else None  # type: ignore[attr-defined]


def find(session: Session, identity: str, *, lock: bool = False) -> IdentityRow | None:
    """Return an identity. lock: nobody else changes it until the transaction ends."""
    query = select(IdentityRow).where(col(IdentityRow.id) == identity).execution_options(populate_existing=True)
    return session.scalars(query.with_for_update() if lock else query).first()


def known(session: Session, issuer: str, subject: str) -> IdentityRow | None:
    """Return the identity of an issuer's subject, locked until the transaction ends."""
    query = select(IdentityRow).where(col(IdentityRow.issuer) == issuer, col(IdentityRow.subject) == subject)
    return session.scalars(query.with_for_update().execution_options(populate_existing=True)).first()


def add(session: Session, row: IdentityRow) -> bool:
    """Add an identity; False where another process just did."""
    try:
        with session.begin_nested():
            session.add(row)
            session.flush()
    except IntegrityError:
        return False
    return True


def count_waiting(session: Session) -> int:
    """Return how many identities wait for an admin."""
    query = select(func.count()).select_from(IdentityRow).where(col(IdentityRow.is_linked).is_(False))
    return session.scalar(query) or 0


def forget_waiting(session: Session, before: datetime) -> None:
    """Forget identities that wait, were nobody's ever, and were last seen before a time: they wait again when they come back."""
    old = delete(IdentityRow).where(col(IdentityRow.is_linked).is_(False), col(IdentityRow.person_id) == "")
    session.execute(old.where(col(IdentityRow.last_seen_at) < before))


def list_waiting(session: Session, most: int) -> list[IdentityRow]:
    """Return identities that wait for an admin, those that came first."""
    query = select(IdentityRow).where(col(IdentityRow.is_linked).is_(False))
    return list(session.scalars(query.order_by(col(IdentityRow.first_seen_at), col(IdentityRow.id)).limit(most)))


def list_identities(session: Session, page: PageRequest) -> Page[tuple[IdentityRow, str]]:
    """Return one page of identities by id, each with the name of the person it is, "" while it waits."""
    query = select(IdentityRow, col(PersonRow.name)).outerjoin(
        PersonRow, col(PersonRow.id) == col(IdentityRow.person_id)
    )
    query = walked(query, col(IdentityRow.id), page.after, page.limit + 1, is_down=page.is_turned)
    total = session.scalar(select(func.count()).select_from(IdentityRow)) or 0
    rows = [(row[0], row[1] if row[0].is_linked else "") for row in session.execute(query)]
    return cut_page(rows, page, total, lambda row: row[0].id)


def person_of(session: Session, person: str) -> PersonRow | None:
    """Return a person by id."""
    return session.get(PersonRow, person, populate_existing=True) if person else None


def token_of(session: Session, token: str) -> TokenRow | None:
    """Return a token."""
    return session.get(TokenRow, token, populate_existing=True) if token else None
