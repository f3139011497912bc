"""SQL about local accounts."""

from collections.abc import Collection
from datetime import datetime
from typing import Final

from sqlalchemy import delete, func, select, update
from sqlmodel import Session, col

from edgefleet_server.access.accounts.tables import AccountRow, GuessRow, InvitationRow, SecondFactorRow
from edgefleet_server.access.store import end_made_with
from edgefleet_server.access.tables import LoginLinkRow, PersonRow, SessionRow, TokenRow
from edgefleet_server.encryption.model import SealedColumn

MAX_GUESSES: Final = 10_000
"""Names that are counted at the same time."""
SEALED: Final = SealedColumn("secret of sign-in codes", "access_second_factors", "secret", ("person_id",), "made_at")


def find_account(session: Session, person: str) -> AccountRow | None:
    """Return a person's account."""
    return session.get(AccountRow, person, populate_existing=True)


def accounts_of(session: Session, people: Collection[str]) -> list[tuple[AccountRow, TokenRow, PersonRow]]:
    """Return the accounts of these people, each with its token and person."""
    query = (
        select(AccountRow, TokenRow, PersonRow)
        .join(TokenRow, col(TokenRow.id) == col(AccountRow.token_id))
        .join(PersonRow, col(PersonRow.id) == col(AccountRow.person_id))
        .where(col(AccountRow.person_id).in_(people))
    )
    return [(row[0], row[1], row[2]) for row in session.execute(query)]


def named_account(session: Session, name: str) -> tuple[AccountRow, TokenRow, PersonRow] | None:
    """Return the account of the person with a name."""
    person = session.scalars(select(PersonRow).where(col(PersonRow.name) == name)).first()
    found = [] if person is None else accounts_of(session, [person.id])
    return found[0] if found else None


def set_password(session: Session, person: str, before: str, password_hash: str, at: datetime | None) -> bool:
    """Store a hash in place of another one; False where that one is no longer there. at: None leaves the time of the change."""
    values = {"password_hash": password_hash} if at is None else {"password_hash": password_hash, "password_at": at}
    mine = update(AccountRow).where(col(AccountRow.person_id) == person, col(AccountRow.password_hash) == before)
    return int(session.execute(mine.values(**values)).rowcount) == 1  # type: ignore[attr-defined]


def end_token(session: Session, token_id: str, now: datetime) -> None:
    """Revoke a token, and remove the login links and sessions that rest on it."""
    session.execute(
        update(TokenRow).where(col(TokenRow.id) == token_id, col(TokenRow.revoked_at).is_(None)).values(revoked_at=now)
    )
    end_sessions(session, token_id)
    end_made_with(session, token_id, now)


def end_sessions(session: Session, token_id: str, keep: str = "") -> int:
    """Remove the login links and sessions that rest on a token, but for one session; return how many sessions that were."""
    session.execute(delete(LoginLinkRow).where(col(LoginLinkRow.token_id) == token_id))
    done = session.execute(delete(SessionRow).where(col(SessionRow.token_id) == token_id, col(SessionRow.id) != keep))
    return int(done.rowcount)  # type: ignore[attr-defined]


def find_invitation(session: Session, invitation_id: str) -> InvitationRow | None:
    """Return a one-time code's row."""
    return session.get(InvitationRow, invitation_id)


def invitations_of(session: Session, people: Collection[str]) -> dict[str, datetime]:
    """Return until when the one-time codes of these people work."""
    query = select(col(InvitationRow.person_id), col(InvitationRow.expires_at))
    found = session.execute(query.where(col(InvitationRow.person_id).in_(people)))
    return {row[0]: row[1] for row in found}


def take_invitation(session: Session, invitation_id: str) -> bool:
    """Delete a one-time code; False when it was gone already. One statement, so two browsers cannot use the same one."""
    done = session.execute(delete(InvitationRow).where(col(InvitationRow.id) == invitation_id))
    return int(done.rowcount) == 1  # type: ignore[attr-defined]


def delete_invitations(session: Session, person: str) -> None:
    """Remove the one-time codes of a person."""
    session.execute(delete(InvitationRow).where(col(InvitationRow.person_id) == person))


def find_second_factor(session: Session, person: str, *, lock: bool = False) -> SecondFactorRow | None:
    """Return a person's codes. lock: nobody else uses one until the transaction ends."""
    query = select(SecondFactorRow).where(col(SecondFactorRow.person_id) == person)
    query = (query.with_for_update() if lock else query).execution_options(populate_existing=True)
    return session.scalars(query).first()


def delete_second_factor(session: Session, person: str) -> None:
    """Remove a person's codes."""
    session.execute(delete(SecondFactorRow).where(col(SecondFactorRow.person_id) == person))


def find_guesses(session: Session, key: str) -> GuessRow | None:
    """Return the tries of a name, locked until the transaction ends."""
    return session.scalars(select(GuessRow).where(col(GuessRow.key) == key).with_for_update()).first()


def forget_guesses(session: Session, key: str) -> None:
    """Remove the tries of a name."""
    session.execute(delete(GuessRow).where(col(GuessRow.key) == key))


def make_room_for_guesses(session: Session, before: datetime) -> None:
    """Remove tries of before a time; of too many the least tried ones, so that a name that is being guessed stays counted."""
    session.execute(delete(GuessRow).where(col(GuessRow.at) < before))
    over = (session.scalar(select(func.count()).select_from(GuessRow)) or 0) - MAX_GUESSES + 1
    if over > 0:
        least = select(col(GuessRow.key)).order_by(col(GuessRow.level), col(GuessRow.at)).limit(over)
        session.execute(delete(GuessRow).where(col(GuessRow.key).in_(session.scalars(least).all())))
