"""Tokens, roles and audit as the rest of the server sees them. Browsers sign in through `logins`.

A token's secret has 256 random bits, so its plain SHA-256 is enough (nothing to guess); it is compared in constant time and
an unknown id costs the same comparison. A refusal never says whether the id or the secret was wrong.
"""

import base64
import hmac
import logging
import secrets
import threading
from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy.exc import SQLAlchemyError
from sqlmodel import Session

from edgefleet_protocol.clock import Clock
from edgefleet_protocol.digest import sha256_hex
from edgefleet_server.access import rules, store
from edgefleet_server.access.accounts.password_hasher import PasswordHasher
from edgefleet_server.access.accounts.service import AccountBook
from edgefleet_server.access.audit_chain.chain_book import AuditChain
from edgefleet_server.access.audit_chain.chain_model import NewEntry
from edgefleet_server.access.errors import (
    BadTokenError,
    BadTokenRequestError,
    ExpiredTokenError,
    UnknownTokenError,
)
from edgefleet_server.access.grants.rules import loaded, stored
from edgefleet_server.access.idempotency.answers import RepeatBook
from edgefleet_server.access.logins import LoginBook
from edgefleet_server.access.model import AuditEntry, AuditFilter, Grant, NewToken, Owner, Principal, Role, TokenView
from edgefleet_server.access.people.model import end_of_token
from edgefleet_server.access.people.own_tokens import OwnTokens
from edgefleet_server.access.people.service import PeopleBook
from edgefleet_server.access.refusals import RefusalBook
from edgefleet_server.access.request_quota import Throttle
from edgefleet_server.access.tables import TokenRow
from edgefleet_server.db.database import Database, DatabaseUnavailableError
from edgefleet_server.db.keyset import Page, PageRequest
from edgefleet_server.encryption.service import Sealer
from edgefleet_server.web.attempt_limits import Attempt, AttemptLimiter

_log = logging.getLogger(__name__)
USED_RESOLUTION = timedelta(minutes=1)
MAX_ENDING = 200
FIRST_ADMIN: Final = "first admin"
_NOBODY_SHA256 = sha256_hex(b"no such token")
_LOGIN = "ask an admin for a token (`edgectl token create --name NAME --role ROLE`), then `edgectl login URL`"


class AccessService:
    """Makes and checks operator tokens, writes the audit trail. Thread-safe; calls block."""

    def __init__(
        self,
        db: Database,
        clock: Clock,
        *,
        rate_limit_per_min: int = 0,
        hasher: PasswordHasher | None = None,
        sealer: Sealer | None = None,
    ) -> None:
        """Wire the parts. rate_limit_per_min: requests that one token may send; 0 = no limit. hasher: of passwords, None = as usual.

        sealer: of the secrets of codes; None where nobody signs in.
        """
        self._db = db
        self._clock = clock
        self.throttle = Throttle(clock, rate_limit_per_min)
        self.repeats = RepeatBook(db, clock)
        self._used_lock = threading.Lock()
        self._used: dict[str, datetime] = {}
        self.logins = LoginBook(db, clock)
        self.people = PeopleBook(db, clock)
        self.own_tokens = OwnTokens(db, clock, self)
        self.accounts = AccountBook(
            db, clock, self.people, self.logins, hasher or PasswordHasher(), self.record, sealer
        )
        self.attempts = AttemptLimiter(clock, self._keys)
        self.chain = AuditChain(db, clock)
        self.refusals = RefusalBook(clock, self.record)

    def create_token(
        self,
        name: str,
        roles: Collection[Role],
        *,
        by: str,
        expires_at: datetime | None = None,
        person: str = "",
        is_endless: bool = False,
        scoped: Sequence[Grant] = (),
    ) -> NewToken:
        """Make a token; its text is returned this once. Raises BadTokenRequestError, BadGrantError, UnknownPersonError.

        roles: over the whole fleet; scoped: grants of a part of it. person: id or name of its owner, "" = the one with its name;
        expires_at: None = in 90 days; is_endless: never.
        """
        now = self._clock.now()
        if not roles and not scoped:
            raise BadTokenRequestError("a token needs at least one role", next_step="name a role")
        with self._db.session():
            owner = self.people.owner_of_new_token(name, person, by)
            ends = end_of_token(owner.kind, expires_at, now, is_endless=is_endless)
            self.people.check_token(owner, [*map(Grant, roles), *scoped])
            return self._insert(name, roles, owner, ends, by, scoped)

    def create_first_admin(self, by: str) -> NewToken:
        """Make the token of a new server, the only one of a person without an end: it lies next to all keys, and nothing else lets in."""
        with self._db.session():
            owner = self.people.owner_of_new_token(FIRST_ADMIN, "", by)
            return self._insert(FIRST_ADMIN, [Role.ADMIN], owner, None, by)

    def issue(
        self, name: str, roles: Collection[Role], owner: Owner, ends: datetime, by: str, scoped: Sequence[Grant] = ()
    ) -> NewToken:
        """Make a token of a service for a job that has proved who it is. ends: soon."""
        return self._insert(name, roles, owner, ends, by, scoped)

    def issue_own(
        self, name: str, roles: Collection[Role], owner: Owner, ends: datetime, made_with: str, scoped: Sequence[Grant]
    ) -> NewToken:
        """Make a token of a person with another one, which it ends with."""
        return self._insert(name, roles, owner, ends, owner.name, scoped, made_with)

    def _insert(
        self,
        name: str,
        roles: Collection[Role],
        owner: Owner,
        ends: datetime | None,
        by: str,
        scoped: Sequence[Grant] = (),
        made_with: str = "",
    ) -> NewToken:
        token_id = base64.b32encode(secrets.token_bytes(10)).decode().lower()[:12]
        secret = secrets.token_urlsafe(32)
        row = TokenRow(
            id=token_id,
            name=name,
            secret_sha256=sha256_hex(secret.encode()),
            roles=sorted(set(roles)),
            created_at=self._clock.now(),
            created_by=by,
            expires_at=ends,
            person_id=owner.id,
            grants=stored(dict.fromkeys(scoped)),
            made_with=made_with,
        )
        with self._db.session() as session:
            session.add(row)
            session.flush()
        return NewToken(view=_view(row, owner), token=f"edg_{token_id}_{secret}")

    def authenticate_from(self, address: str, token: str) -> Principal:
        """Return the caller that a token stands for. Raises BadTokenError, ExpiredTokenError, TooManyLoginsError."""
        attempt = attempt_of(address, token)
        if not attempt.account:  # no token: nothing is looked up for it, so nothing has to be saved
            return self.authenticate(token)
        self.attempts.check(attempt)
        try:
            found = self.authenticate(token)
        except BadTokenError:
            self.attempts.note_failure(attempt)
            raise
        self.attempts.note_success(attempt)
        return found

    def _keys(self) -> list[str]:
        with self._db.read() as session:
            return store.accounts(session, self._clock.now())

    def authenticate(self, token: str) -> Principal:
        """Return the caller that a token stands for. Raises BadTokenError, ExpiredTokenError."""
        parts = rules.split_token(token)
        token_id, secret = parts if parts is not None else ("", "")
        with self._db.read() as session:
            found = store.find_owned_token(session, token_id) if token_id else None
        row, owner = found if found is not None else (None, Owner())
        expected = row.secret_sha256 if row is not None else _NOBODY_SHA256
        same = hmac.compare_digest(expected, sha256_hex(secret.encode()))
        if row is None or not same or row.revoked_at is not None or owner.disabled_at is not None:
            raise BadTokenError("this operator token is not valid (unknown, wrong or revoked)", next_step=_LOGIN)
        now = self._clock.now()
        if row.expires_at is not None and row.expires_at <= now:
            raise ExpiredTokenError(
                f"this operator token of {owner.name or row.name} expired at {row.expires_at:%Y-%m-%dT%H:%M:%SZ}",
                next_step=_LOGIN,
            )
        self._note_use(token_id, row.last_used_at, now)
        roles, name = frozenset(Role(role) for role in row.roles), owner.name_of(row.name)
        scoped = loaded(row.grants)
        return Principal(row.id, name, roles, owner.id, owner.kind, row.expires_at, scoped, owner.grants)

    def tokens(self, page: PageRequest) -> Page[TokenView]:
        """Return one page of tokens, without their secrets."""
        with self._db.read() as session:
            rows = store.list_tokens(session, page)
        return rows.of([_view(row, owner) for row, owner in rows.items])

    def ending(self, first: datetime, last: datetime) -> list[TokenView]:
        """Return tokens that end between two times, the soonest first, at most MAX_ENDING; not those revoked or of a disabled owner."""
        with self._db.read() as session:
            return [_view(*one) for one in store.list_ending(session, first, last, MAX_ENDING)]

    def token(self, token_id: str) -> TokenView:
        """Return one token, without its secret. Raises UnknownTokenError."""
        with self._db.read() as session:
            return _view(*_known(session, token_id))

    def revoke_token(self, token_id: str) -> TokenView:
        """Make a token useless at once and sign its browsers out; again changes nothing. Raises UnknownTokenError."""
        with self._db.session() as session:
            row, owner = _known(session, token_id)
            row.revoked_at = row.revoked_at or self._clock.now()
            session.add(row)
            store.delete_logins_of(session, token_id)
            session.flush()
            store.end_made_with(session, token_id, row.revoked_at)
            return _view(row, owner)

    def record(self, actor: str, action: str, target: str, status: int, request_id: str) -> None:
        """Append one audit row. Joins the caller's transaction, at whose end it is written."""
        row = NewEntry(self._clock.now(), actor[:120], action[:120], target[:255], status, request_id[:64])
        self.chain.append(row)

    def audit(self, page: PageRequest, what: AuditFilter = AuditFilter()) -> Page[AuditEntry]:  # noqa: B008 - a frozen value
        """Return one page of the audit trail, newest first as usual; of all of it, or of what a filter chooses."""
        with self._db.read() as session:
            rows = store.list_audit(session, page, what)
        entries = [
            AuditEntry(r.id or 0, r.at, r.actor, r.action, r.object, r.status, r.request_id, r.n, r.hash)
            for r in rows.items
        ]
        return rows.of(entries)

    def _note_use(self, token_id: str, stored: datetime | None, now: datetime) -> None:
        """Write the time of use at most once a minute, where the database can write at once: a request that only reads must not
        wait for a lock, nor fail because of a full disk.
        """
        with self._used_lock:
            last = self._used.get(token_id, stored)
            if last is not None and now - last < USED_RESOLUTION:
                return
            self._used[token_id] = now
        try:
            with self._db.brief_session() as session:
                store.mark_used(session, token_id, now)
        except (SQLAlchemyError, DatabaseUnavailableError) as error:
            _log.warning("the use of a token could not be noted", extra={"error": type(error).__name__})


def attempt_of(address: str, secret: str) -> Attempt:
    """Return a try with a token or the code of a link."""
    account, _ = rules.split_token(secret) or rules.split_key(secret) or ("", "")
    return Attempt(address, account, secret)


def _known(session: Session, token_id: str) -> tuple[TokenRow, Owner]:
    found = store.find_owned_token(session, token_id)
    if found is None:
        raise UnknownTokenError(f"there is no token {token_id!r}", next_step="`edgectl token list` shows all")
    return found


def _view(row: TokenRow, owner: Owner) -> TokenView:
    return TokenView(
        id=row.id,
        name=row.name,
        person=owner.name,
        kind=owner.kind,
        roles=tuple(Role(role) for role in row.roles),
        scoped=loaded(row.grants),
        created_at=row.created_at,
        created_by=row.created_by,
        expires_at=row.expires_at,
        last_used_at=row.last_used_at,
        revoked_at=row.revoked_at,
    )
