"""People and services, the owners of tokens: added, listed, disabled, enabled. Thread-safe; calls block.

A person who is disabled loses all tokens, login links and sessions in the same transaction, and for good: one who is enabled again needs
a new token. Nobody disables themselves. Source: ADR 0117.
"""

import base64
import secrets
from collections.abc import Sequence

from sqlalchemy.exc import IntegrityError
from sqlmodel import Session

from edgefleet_protocol.clock import Clock
from edgefleet_server.access.accounts import store as accounts
from edgefleet_server.access.accounts.model import AccountState, state_of
from edgefleet_server.access.errors import OwnAccountError, PersonExistsError, UnknownPersonError
from edgefleet_server.access.model import Owner, PersonKind, Principal, is_in_force
from edgefleet_server.access.people import store
from edgefleet_server.access.people.model import PersonView
from edgefleet_server.access.tables import PersonRow
from edgefleet_server.db.database import Database
from edgefleet_server.db.keyset import Page, PageRequest


class PeopleBook:
    """Keeps people and services."""

    def __init__(self, db: Database, clock: Clock) -> None:
        """Wire the parts."""
        self._db = db
        self._clock = clock

    def create(self, name: str, kind: PersonKind, *, by: str) -> PersonView:
        """Add a person or a service. Raises PersonExistsError."""
        with self._db.session() as session:
            made = None if store.named(session, name) is not None else self._insert(session, name, kind, by)
            if made is None:
                raise PersonExistsError(
                    f"there is a person or service {name!r} already", next_step="choose another name"
                )
            return _view(made, 0)

    def owner_of_new_token(self, token_name: str, person: str, by: str) -> Owner:
        """Return to whom a new token belongs, in the caller's transaction. Raises UnknownPersonError.

        person: an id or a name, "" = the person of the token's name, who is added if there is none.
        """
        with self._db.session() as session:
            found = store.find_person(session, person) if person else store.named(session, token_name)
            if found is None and not person:
                found = self._insert(session, token_name, PersonKind.PERSON, by) or store.named(session, token_name)
            if found is None:
                raise _unknown(person)
            if found.disabled_at is not None:
                raise UnknownPersonError(
                    f"{found.name} is disabled and can have no token",
                    next_step=f"`edgectl person enable '{found.name}'`",
                )
            return Owner(found.id, found.name, PersonKind(found.kind))

    def people(self, page: PageRequest) -> Page[PersonView]:
        """Return one page of people and services, by name."""
        with self._db.read() as session:
            rows = store.list_people(session, page)
            return rows.of(self._views(session, rows.items))

    def person(self, key: str) -> PersonView:
        """Return a person or a service by id or name. Raises UnknownPersonError."""
        with self._db.read() as session:
            return self._shown(session, _known(session, key))

    def disable(self, key: str, caller: Principal) -> PersonView:
        """End every token and session of a person or a service; again changes nothing. Raises UnknownPersonError, OwnAccountError."""
        now = self._clock.now()
        with self._db.session() as session:
            row = _known(session, key)
            if row.id == caller.person:
                raise OwnAccountError("nobody disables themselves", next_step="ask another admin")
            row.disabled_at = row.disabled_at or now
            session.add(row)
            store.end_all_of(session, row.id, now)
            session.flush()
            return self._shown(session, row)

    def enable(self, key: str) -> PersonView:
        """Let a person or a service have tokens again; the old ones stay revoked. Raises UnknownPersonError."""
        with self._db.session() as session:
            row = _known(session, key)
            row.disabled_at = None
            session.add(row)
            session.flush()
            return self._shown(session, row)

    def _shown(self, session: Session, row: PersonRow) -> PersonView:
        return self._views(session, [row])[0]

    def _views(self, session: Session, rows: Sequence[PersonRow]) -> list[PersonView]:
        now, ids = self._clock.now(), [row.id for row in rows]
        counts = store.count_tokens(session, ids, now)
        codes = accounts.invitations_of(session, ids)
        states = {
            account.person_id: state_of(
                has_password=bool(account.password_hash),
                is_in_force=is_in_force(token.expires_at, token.revoked_at, now, person.disabled_at),
                code_ends_at=codes.get(person.id),
                now=now,
            )
            for account, token, person in accounts.accounts_of(session, ids)
        }
        return [_view(row, counts.get(row.id, 0), states.get(row.id, AccountState.NONE)) for row in rows]

    def _insert(self, session: Session, name: str, kind: PersonKind, by: str) -> PersonRow | None:
        """Add a row, None where another request just added the name."""
        own = "p-" + base64.b32encode(secrets.token_bytes(8)).decode().lower()[:12]
        row = PersonRow(id=own, name=name, kind=kind.value, created_at=self._clock.now(), created_by=by[:80])
        try:
            with session.begin_nested():
                session.add(row)
                session.flush()
        except IntegrityError:
            return None
        return row


def _known(session: Session, key: str) -> PersonRow:
    row = store.find_person(session, key)
    if row is None:
        raise _unknown(key)
    return row


def _unknown(key: str) -> UnknownPersonError:
    return UnknownPersonError(
        f"there is no person or service {key!r}",
        next_step="`edgectl person list` shows all; `edgectl person add NAME` adds one",
    )


def _view(row: PersonRow, tokens: int, account: AccountState = AccountState.NONE) -> PersonView:
    kind = PersonKind(row.kind)
    return PersonView(row.id, row.name, kind, row.created_at, row.created_by, row.disabled_at, tokens, account)
