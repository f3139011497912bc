"""Local accounts: an admin makes a one-time code, its person chooses a password with it and signs in with that. Thread-safe; calls block.

- An account's roles are those of a token without a text, which nobody can use at the API. So sessions, quotas and revocation are the same
  as everywhere, and the list of tokens shows all by which somebody gets in.
- A code works once, until it ends, for one person. Making one ends the password and the sessions that were there: no admin sees or sets a
  password. Disabling the person ends the code too.
- A refusal of a sign-in does not say whether a name has an account, and costs the same work (`password_hasher.NOBODY`).
"""

import base64
import hmac
import secrets
from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from typing import Final

from sqlmodel import Session

from edgefleet_protocol.clock import Clock
from edgefleet_protocol.digest import sha256_hex
from edgefleet_server.access import rules
from edgefleet_server.access.accounts import store
from edgefleet_server.access.accounts.guess_book import GuessBook
from edgefleet_server.access.accounts.model import CODE_LIFE, MAX_CODE_LIFE, CodeSetup, Invitation
from edgefleet_server.access.accounts.password_hasher import PasswordHasher
from edgefleet_server.access.accounts.password_rules import check_password
from edgefleet_server.access.accounts.second_factor import CodeBook
from edgefleet_server.access.accounts.tables import AccountRow, InvitationRow
from edgefleet_server.access.errors import (
    BadInvitationError,
    LoginRefusedError,
    NoAccountError,
    UnknownPersonError,
    WrongPasswordError,
)
from edgefleet_server.access.logins import LoginBook
from edgefleet_server.access.model import BrowserSession, NewSession, Owner, PersonKind, Principal, Role, is_in_force
from edgefleet_server.access.people.service import PeopleBook
from edgefleet_server.access.store import end_made_with
from edgefleet_server.access.tables import PersonRow, TokenRow
from edgefleet_server.db.database import Database
from edgefleet_server.encryption.service import Sealer

GUESSING: Final = "password_guessing"
"""Action of the audit row that says that no more passwords are tried for a person."""
CODE_REFUSED: Final = "login_code_refused"
"""Action of the audit row that says that somebody knew a person's password and had no right code. As many as tries of a name."""
_NOTHING_SHA256: Final = sha256_hex(b"no such code")
Record = Callable[[str, str, str, int, str], None]
"""actor, action, object, status, request id"""


class AccountBook:
    """Makes codes, takes passwords, signs in."""

    def __init__(
        self,
        db: Database,
        clock: Clock,
        people: PeopleBook,
        logins: LoginBook,
        hasher: PasswordHasher,
        record: Record,
        sealer: Sealer | None,
    ) -> None:
        """Wire the parts. record: appends an audit row; sealer: of the secrets of codes."""
        self.codes = CodeBook(db, clock, sealer)
        self._db = db
        self._clock = clock
        self._people = people
        self._logins = logins
        self._hasher = hasher
        self._record = record
        self._guesses = GuessBook(db, clock)

    def invite(
        self, person: str, roles: Collection[Role], *, by: str, expires_at: datetime | None = None
    ) -> Invitation:
        """Make a one-time code with which a person chooses a password; a password and sessions of before end now.

        person: name or id, added where there is none; roles: none = those of the account. Raises UnknownPersonError, BadInvitationError.
        """
        now = self._clock.now()
        ends = expires_at or now + CODE_LIFE
        if not now < ends <= now + MAX_CODE_LIFE:
            raise BadInvitationError(
                f"a one-time code ends within {MAX_CODE_LIFE.days} days", next_step="give an end in that time, or none"
            )
        with self._db.session() as session:
            owner = self._owner(person, by)
            found = store.accounts_of(session, [owner.id])
            wanted = sorted(set(roles)) or [Role(role) for role in (found[0][1].roles if found else ())]
            if not wanted:
                raise BadInvitationError(f"{owner.name} has no account yet", next_step="name a role: `--role viewer`")
            if found:
                store.end_token(session, found[0][0].token_id, now)
                store.delete_second_factor(session, owner.id)
            token = _token(owner, wanted, by, now)
            session.add(token)
            session.merge(AccountRow(person_id=owner.id, token_id=token.id))
            code = _new_invitation(session, owner.id, now, ends)
        return Invitation(owner.name, tuple(wanted), f"/invitation?code={code}", ends)

    def invited(self, code: str) -> str:
        """Return whose a one-time code is; it is not used up. Raises LoginRefusedError."""
        with self._db.read() as session:
            return self._open_invitation(session, code)[1].name

    def use_invitation(self, code: str, password: str) -> NewSession:
        """Set the password of a one-time code's person and sign in; the code works once.

        Raises LoginRefusedError, BadPasswordError (the code still works), SignInBusyError.
        """
        name = self.invited(code)
        check_password(password, name)
        with self._hasher.turn():
            password_hash = self._hasher.hash(password)
        now = self._clock.now()
        with self._db.session() as session:
            row, person, account = self._open_invitation(session, code)
            if not store.take_invitation(session, row.id):
                raise _refused_code()
            store.set_password(session, person.id, account.password_hash, password_hash, now)
            self._guesses.forget_name(person.name)
            return self._logins.open_session(_principal(account.token_id, person))

    def sign_in(self, address: str, name: str, password: str, code: str = "") -> NewSession:
        """Open a session for the person of a name. code: of the app, or a recovery code; "" for who has none.

        A wrong code is refused in the words of a wrong password. Raises LoginRefusedError, TooManyLoginsError, SignInBusyError."""
        self._guesses.take_client(address)
        password_hash = self._check(name, password)
        if password_hash is None:
            raise _refused()
        with self._db.session() as session:
            found = store.named_account(session, name)
            if found is None or found[0].password_hash != password_hash:  # changed while it was checked
                raise _refused()
            account, _, person = found
            is_passed = self.codes.is_passed(session, person.id, code)
            if is_passed:
                self._guesses.forget_name(name)
                opened = self._logins.open_session(_principal(account.token_id, person))
        if not is_passed:
            self._record(person.name, CODE_REFUSED, f"person {person.id}", 401, "")
            raise _refused()
        if self._hasher.is_outdated(password_hash):
            self._hash_again(account.person_id, password_hash, password)
        return opened

    def change_password(self, caller: BrowserSession, current: str, new: str) -> None:
        """Change the password of a signed-in person; all other browsers that signed in with the old one are signed out.

        Tokens that the person made in such a browser end.

        Raises NoAccountError, WrongPasswordError, BadPasswordError, TooManyLoginsError, SignInBusyError.
        """
        name = self._account_of(caller)[1]
        check_password(new, name)
        password_hash = self._check(name, current)
        if password_hash is None:
            raise WrongPasswordError("the current password is wrong", next_step="type the password you signed in with")
        with self._hasher.turn():
            changed = self._hasher.hash(new)
        with self._db.session() as session:
            account, _ = self._account_of(caller)
            if not store.set_password(session, account.person_id, password_hash, changed, self._clock.now()):
                raise WrongPasswordError("the password was changed meanwhile", next_step="sign in again")
            store.end_sessions(session, account.token_id, keep=caller.id)
            end_made_with(session, account.token_id, self._clock.now())
            self._guesses.forget_name(name)

    def begin_codes(self, caller: BrowserSession, current: str) -> CodeSetup:
        """Begin to set up codes. Raises what `change_password` does, and SecondFactorError."""
        account, name = self._with_password(caller, current)
        return self.codes.begin(account.person_id, name)

    def confirm_codes(self, caller: BrowserSession, code: str) -> list[str]:
        """Put codes into force, sign other browsers out, return recovery codes.

        Raises NoAccountError, SecondFactorError, WrongCodeError.
        """
        with self._db.session() as session:
            account, _ = self._account_of(caller)
            made = self.codes.confirm(account.person_id, code)
            store.end_sessions(session, account.token_id, keep=caller.id)
        return made

    def end_codes(self, caller: BrowserSession, current: str) -> None:
        """Turn codes off. Raises what `change_password` does."""
        self.codes.turn_off(self._with_password(caller, current)[0].person_id)

    def _with_password(self, caller: BrowserSession, current: str) -> tuple[AccountRow, str]:
        account, name = self._account_of(caller)
        if self._check(name, current) is None:
            raise WrongPasswordError("the current password is wrong", next_step="type the password you signed in with")
        self._guesses.forget_name(name)
        return account, name

    def end_other_sessions(self, caller: BrowserSession) -> int:
        """Sign out all other browsers of a person that signed in with the password; return how many. Raises NoAccountError."""
        with self._db.session() as session:
            return store.end_sessions(session, self._account_of(caller)[0].token_id, keep=caller.id)

    def password_since(self, caller: BrowserSession) -> datetime | None:
        """Return since when a signed-in person has the password. Raises NoAccountError."""
        return self._account_of(caller)[0].password_at

    def _check(self, name: str, password: str) -> str | None:
        """Return the hash of the account that a name and a password are of, None when they are of none; count the try."""
        with self._hasher.turn():
            is_last = self._guesses.take_name(name)
            with self._db.read() as session:
                found = store.named_account(session, name)
            can = found is not None and _can_sign_in(found, self._clock.now())
            known = found[0].password_hash if found is not None and can else None
            is_right = self._hasher.is_right(known, password)
        if is_last and not is_right and found is not None:
            self._record(found[2].name, GUESSING, f"person {found[2].id}", 429, "")
        return known if is_right else None

    def _hash_again(self, person: str, before: str, password: str) -> None:
        with self._hasher.turn():
            again = self._hasher.hash(password)
        with self._db.session() as session:
            store.set_password(session, person, before, again, None)

    def _account_of(self, caller: BrowserSession) -> tuple[AccountRow, str]:
        """Return a signed-in person's account and name."""
        with self._db.read() as session:
            found = store.accounts_of(session, [caller.principal.person])
        if not found or not _can_sign_in(found[0], self._clock.now()):
            raise NoAccountError(
                f"{caller.principal.name} signs in without a password",
                next_step="ask an admin for a one-time code: `edgectl person invite NAME --role ROLE`",
            )
        return found[0][0], found[0][2].name

    def _owner(self, person: str, by: str) -> Owner:
        try:
            name = self._people.person(person).name
        except UnknownPersonError:
            name = person
        owner = self._people.owner_of_new_token(name, "", by)
        if owner.kind is not PersonKind.PERSON:
            raise BadInvitationError(
                f"{owner.name} is a service, which has no password",
                next_step="make a token for it: `edgectl token create --name NAME --role ROLE`",
            )
        return owner

    def _open_invitation(self, session: Session, code: str) -> tuple[InvitationRow, PersonRow, AccountRow]:
        own, secret = rules.split_key(code) or ("", "")
        row = store.find_invitation(session, own) if own else None
        expected = _NOTHING_SHA256 if row is None else row.secret_sha256
        is_right = hmac.compare_digest(expected, sha256_hex(secret.encode()))
        now = self._clock.now()
        found = store.accounts_of(session, [row.person_id]) if row is not None and is_right else []
        if row is None or row.expires_at <= now or not found:
            raise _refused_code()
        account, token, person = found[0]
        if not is_in_force(token.expires_at, token.revoked_at, now, person.disabled_at):
            raise _refused_code()
        return row, person, account


def _can_sign_in(found: tuple[AccountRow, TokenRow, PersonRow], now: datetime) -> bool:
    account, token, person = found
    return bool(account.password_hash) and is_in_force(token.expires_at, token.revoked_at, now, person.disabled_at)


def _token(owner: Owner, roles: Sequence[str], by: str, now: datetime) -> TokenRow:
    """Return a token with no text: no SHA-256 is empty, so nothing that somebody sends is it."""
    return TokenRow(
        id=_new_id(),
        name=f"password of {owner.name}"[:80],
        secret_sha256="",
        roles=list(roles),
        created_at=now,
        created_by=by[:80],
        expires_at=None,
        person_id=owner.id,
    )


def _new_invitation(session: Session, person: str, now: datetime, ends: datetime) -> str:
    own, secret = _new_id(), secrets.token_urlsafe(32)
    store.delete_invitations(session, person)
    made = InvitationRow(
        id=own, secret_sha256=sha256_hex(secret.encode()), person_id=person, created_at=now, expires_at=ends
    )
    session.add(made)
    session.flush()
    return f"{own}_{secret}"


def _new_id() -> str:
    return base64.b32encode(secrets.token_bytes(10)).decode().lower()[:12]


def _principal(token_id: str, person: PersonRow) -> Principal:
    return Principal(token_id, person.name, frozenset(), person.id)


def _refused() -> LoginRefusedError:
    return LoginRefusedError(
        "this name and password do not sign in here",
        next_step="check both, and the code of your app if you use one; or ask an admin for a new one-time address",
    )


def _refused_code() -> LoginRefusedError:
    return LoginRefusedError(
        "this one-time code does not work: it was used already, has ended, or never was one",
        next_step="ask an admin for a new one: `edgectl person invite NAME`",
    )
