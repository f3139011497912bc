"""People and services, the owners of tokens: added, listed, disabled, enabled. Thread-safe; calls block.

A person who is disabled loses all tokens, login links and sessions in the same transaction, and for good: one who is enabled again needs
a new token. Nobody disables themselves. What a person was granted limits all their tokens at each request. Source: ADRs 0117, 0122.
"""

import base64
import secrets
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from sqlalchemy.exc import IntegrityError
from sqlmodel import Session

from edgefleet_protocol.clock import Clock
from edgefleet_server.access.accounts import store as accounts
from edgefleet_server.access.accounts.model import AccountState, state_of
from edgefleet_server.access.errors import (
    BadGrantError,
    BadTokenRequestError,
    OwnAccountError,
    PersonExistsError,
    UnknownPersonError,
)
from edgefleet_server.access.grants.rules import (
    check_grant,
    excess,
    loaded,
    loaded_limits,
    stored,
    with_grant,
    without_grant,
)
from edgefleet_server.access.model import Grant, Owner, PersonKind, Principal, Role, is_in_force
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
        self._pin_groups: Callable[[Collection[str]], None] = _no_groups

    def know_groups(self, pin: Callable[[Collection[str]], None]) -> None:
        """Ask `pin` whether grants may name some groups; it keeps them until the transaction ends, or raises."""
        self._pin_groups = pin

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
            session.refresh(found, with_for_update=True)  # disabling them waits for the token, or has been before
            if found.disabled_at is not None:
                raise UnknownPersonError(
                    f"{found.name} is disabled and can have no token",
                    next_step=f"`edgectl person enable '{found.name}'`",
                )
            return Owner(found.id, found.name, PersonKind(found.kind), grants=loaded_limits(found.grants))

    def check_token(self, owner: Owner, grants: Collection[Grant]) -> None:
        """Raise BadGrantError for a grant that cannot be, BadTokenRequestError for one beyond what its owner was granted."""
        self.check_grants(grants)
        if (beyond := excess(grants, owner.grants)) is not None:
            have = ", ".join(map(str, owner.grants or ())) or "nothing"
            raise BadTokenRequestError(
                f"{owner.name} was granted: {have}; the token would have {beyond}",
                next_step=f"ask for less, or grant it first: `edgectl person grant '{owner.name}' {beyond.role}`",
            )

    def grant(self, key: str, grant: Grant) -> PersonView:
        """Grant a person or a service a role in a scope; again changes nothing. Raises UnknownPersonError, BadGrantError.

        The first grant keeps what their tokens in force hold: from then on what was granted limits them.
        """
        with self._db.session() as session:
            row = _known(session, key, lock=True)
            self.check_grants([grant])
            held = loaded_limits(row.grants)
            if held is None:
                tokens = store.tokens_of(session, row.id, self._clock.now())
                held = tuple(dict.fromkeys(one for token in tokens for one in _grants_of(token.roles, token.grants)))
            row.grants = stored(with_grant(held, grant))
            session.add(row)
            session.flush()
            return self._shown(session, row)

    def revoke_grant(self, key: str, grant: Grant, caller: Principal) -> PersonView:
        """Take a grant away, from all tokens at once. Raises UnknownPersonError, UnknownGrantError, OwnAccountError."""
        with self._db.session() as session:
            row = _known(session, key, lock=True)
            left = without_grant(row.name, loaded_limits(row.grants), grant)
            if row.id == caller.person and Grant(Role.ADMIN) not in left:
                raise OwnAccountError("nobody takes the role admin from themselves", next_step="ask another admin")
            row.grants = stored(left)
            session.add(row)
            session.flush()
            return self._shown(session, row)

    def uses_group(self, group: str) -> str | None:
        """Return why a group must stay as it is, None when no grant names it."""
        with self._db.read() as session:
            for name, grants in store.granted(session, self._clock.now()):
                if any(group in one.scope.groups for one in loaded(grants)):
                    return f"a grant of {name} names it"
        return None

    def check_grants(self, grants: Collection[Grant]) -> None:
        """Raise BadGrantError for a grant that cannot be; groups that grants name stay as they are from now on."""
        for one in grants:
            check_grant(one)
        if groups := sorted({name for one in grants for name in one.scope.groups}):
            self._pin_groups(groups)

    def service(self, name: str, by: str) -> Owner:
        """Return the service of a name, added if there is none, in the caller's transaction. Raises UnknownPersonError."""
        with self._db.session() as session:
            found = store.named(session, name) or self._insert(session, name, PersonKind.SERVICE, by)
            found = found or store.named(session, name)
            if found is not None:
                session.refresh(found, with_for_update=True)  # as of a new token
            if found is None or found.kind != PersonKind.SERVICE or found.disabled_at is not None:
                raise UnknownPersonError(
                    f"{name} is disabled, or is a person's name",
                    next_step=f"`edgectl person list` shows it; `edgectl person enable '{name}'` lets a service have tokens again",
                )
            return Owner(found.id, found.name, PersonKind.SERVICE)

    def people(self, page: PageRequest) -> Page[PersonView]:
        """Return one page of people and services, by name."""
        with self._db.read() as session:
            rows = store.list_people(session, page)
            return rows.of(self._views(session, rows.items))

    def person(self, key: str) -> PersonView:
        """Return a person or a service by id or name. Raises UnknownPersonError."""
        with self._db.read() as session:
            return self._shown(session, _known(session, key))

    def acting_for(self, person: str) -> Principal | None:
        """Return what a person may do now who is not asking: for what they set up to happen later. None: disabled, or not known.

        That is what they were granted; where nothing is said of them, what their tokens in force hold. person: an id.
        """
        with self._db.read() as session:
            row = store.find_person(session, person) if person else None
            if row is None or row.id != person or row.disabled_at is not None:
                return None
            held = loaded_limits(row.grants)
            if held is None:
                tokens = store.tokens_of(session, row.id, self._clock.now())
                held = tuple(dict.fromkeys(one for token in tokens for one in _grants_of(token.roles, token.grants)))
            roles = frozenset(one.role for one in held if one.scope.is_whole)
            scoped = tuple(one for one in held if not one.scope.is_whole)
            return Principal("", row.name, roles, row.id, PersonKind(row.kind), scoped=scoped)

    def disable(self, key: str, caller: Principal) -> PersonView:
        """End every token and session of a person or a service; again changes nothing. Raises UnknownPersonError, OwnAccountError."""
        now = self._clock.now()
        with self._db.session() as session:
            row = _known(session, key, lock=True)
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


def _known(session: Session, key: str, *, lock: bool = False) -> PersonRow:
    row = store.find_person(session, key, lock=lock)
    if row is None:
        raise _unknown(key)
    return row


def _unknown(key: str) -> UnknownPersonError:
    return UnknownPersonError(
        f"there is no person or service {key!r}",
        next_step="`edgectl person list` shows all; `edgectl person add NAME` adds one",
    )


def _view(row: PersonRow, tokens: int, account: AccountState = AccountState.NONE) -> PersonView:
    kind, grants = PersonKind(row.kind), loaded_limits(row.grants)
    since, by = row.created_at, row.created_by
    return PersonView(row.id, row.name, kind, since, by, row.disabled_at, tokens, account, grants)


def _grants_of(roles: Collection[str], scoped: Sequence[Mapping[str, Any]]) -> list[Grant]:
    return [*(Grant(Role(role)) for role in roles), *loaded(scoped)]


def _no_groups(names: Collection[str]) -> None:
    raise BadGrantError(f"there is no group {min(names)!r}", next_step="make the group first")
