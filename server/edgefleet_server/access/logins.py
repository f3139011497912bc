"""How a browser gets in: one-time links and sessions. Part of the access service; thread-safe, calls block.

- A link is made by the owner of a token and turns into one session. It is taken out of the database in the transaction that
  opens the session, so it works once, for the first that comes.
- A session stands for its token: each request reads the token's row, so a session never has more roles than its token, and
  ends with it (revoked, expired, its owner disabled).
- Secrets have 256 random bits and are stored as SHA-256 only, as those of tokens (`service.py`). They are compared in constant
  time, and an unknown id costs the same comparison. A refusal does not say what was wrong.
- Old rows are removed when new ones are made; a token has at most MAX_LINKS unused links and MAX_SESSIONS sessions, and the
  oldest ones give way.
"""

import base64
import hmac
import secrets
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Final

from edgefleet_protocol.clock import Clock
from edgefleet_protocol.digest import sha256_hex
from edgefleet_server.access import rules, store
from edgefleet_server.access.errors import ForgedFormError, LoginRefusedError
from edgefleet_server.access.grants.rules import loaded
from edgefleet_server.access.model import (
    BrowserSession,
    LoginLink,
    NewSession,
    Owner,
    Principal,
    Role,
    SignedIn,
    is_in_force,
)
from edgefleet_server.access.tables import LoginLinkRow, SessionRow, TokenRow
from edgefleet_server.db.database import Database

LINK_LIFE: Final = timedelta(minutes=10)
SESSION_LIFE: Final = timedelta(hours=12)
MAX_LINKS: Final = 20
MAX_SESSIONS: Final = 100
_NOTHING_SHA256: Final = sha256_hex(b"no such secret")
_FORM_PURPOSE: Final = b"edgefleet form"


class LoginBook:
    """Makes links, opens, checks and ends sessions."""

    def __init__(self, db: Database, clock: Clock) -> None:
        """Wire the parts."""
        self._db = db
        self._clock = clock

    def create_link(self, principal: Principal) -> LoginLink:
        """Make a link that signs one browser in as this caller; its code is returned this once."""
        now = self._clock.now()
        link_id, secret = _new_key()
        row = LoginLinkRow(
            id=link_id,
            secret_sha256=sha256_hex(secret.encode()),
            token_id=principal.id,
            created_at=now,
            expires_at=now + LINK_LIFE,
        )
        with self._db.session() as session:
            store.delete_expired_logins(session, now)
            session.add(row)
            session.flush()
            store.keep_newest(session, LoginLinkRow, principal.id, MAX_LINKS)
        return LoginLink(f"/login?code={link_id}_{secret}", row.expires_at)

    def use_link(self, code: str) -> NewSession:
        """Turn the code of a link into a session; it works once. Raises LoginRefusedError."""
        link_id, secret = rules.split_key(code) or ("", "")
        now = self._clock.now()
        with self._db.session() as session:
            row = store.find_link(session, link_id) if link_id else None
            is_right = _is_secret(secret, None if row is None else row.secret_sha256)
            if row is None or not is_right or row.expires_at <= now or not store.take_link(session, link_id):
                raise _refused_link()
            found = store.find_owned_token(session, row.token_id)
            if found is None or not _is_good(*found, now):
                raise _refused_link()
            return self._open(*found, now)

    def open_session(self, principal: Principal) -> NewSession:
        """Open a session for a caller whose token was just checked. Raises LoginRefusedError when it ended since."""
        now = self._clock.now()
        with self._db.session() as session:
            found = store.find_owned_token(session, principal.id)
            if found is None or not _is_good(*found, now):
                raise LoginRefusedError("this operator token is not valid any more", next_step="use another one")
            return self._open(*found, now)

    def session_of(self, cookie: str) -> BrowserSession:
        """Return the session that a cookie stands for. Raises LoginRefusedError."""
        session_id, secret = rules.split_key(cookie) or ("", "")
        now = self._clock.now()
        with self._db.read() as session:
            row = store.find_signed_in(session, session_id) if session_id else None
        is_right = _is_secret(secret, None if row is None else row.secret_sha256)
        if row is None or not is_right or not row.is_valid(now):
            raise LoginRefusedError("this browser is not signed in any more", next_step="sign in again")
        return _session(row, secret)

    def end_session(self, cookie: str, form_key: str) -> BrowserSession:
        """End a session and return what it was. Raises LoginRefusedError, ForgedFormError when the form is not ours."""
        found = self.session_of(cookie)
        if not hmac.compare_digest(found.form_key.encode(), form_key.encode()):
            raise ForgedFormError(
                "this form was not sent by a page of this session", next_step="load the page again and use its button"
            )
        with self._db.session() as session:
            store.delete_session(session, found.id)
        return found

    def _open(self, token: TokenRow, owner: Owner, now: datetime) -> NewSession:
        session_id, secret = _new_key()
        ends = now + SESSION_LIFE
        row = SessionRow(
            id=session_id,
            secret_sha256=sha256_hex(secret.encode()),
            token_id=token.id,
            created_at=now,
            expires_at=ends if token.expires_at is None else min(ends, token.expires_at),
        )
        with self._db.session() as session:
            store.delete_expired_logins(session, now)
            session.add(row)
            session.flush()
            store.keep_newest(session, SessionRow, token.id, MAX_SESSIONS)
        opened = SignedIn(
            session_id,
            row.secret_sha256,
            row.expires_at,
            token.id,
            token.name,
            token.roles,
            token.expires_at,
            None,
            owner,
            loaded(token.grants),
        )
        return NewSession(_session(opened, secret), f"{session_id}_{secret}")


def _new_key() -> tuple[str, str]:
    return base64.b32encode(secrets.token_bytes(10)).decode().lower()[:12], secrets.token_urlsafe(32)


def _is_secret(secret: str, expected_sha256: str | None) -> bool:
    return hmac.compare_digest(expected_sha256 or _NOTHING_SHA256, sha256_hex(secret.encode()))


def _is_good(token: TokenRow, owner: Owner, now: datetime) -> bool:
    return is_in_force(token.expires_at, token.revoked_at, now, owner.disabled_at)


def _session(found: SignedIn, secret: str) -> BrowserSession:
    owner, roles = found.owner, frozenset(Role(role) for role in found.roles)
    name = owner.name_of(found.name)
    ends, scoped, limits = found.token_expires_at, found.scoped, owner.grants
    principal = Principal(found.token_id, name, roles, owner.id, owner.kind, ends, scoped, limits)
    form_key = hmac.new(secret.encode(), _FORM_PURPOSE, sha256).hexdigest()
    return BrowserSession(found.session_id, principal, found.expires_at, form_key)


def _refused_link() -> LoginRefusedError:
    return LoginRefusedError(
        "this login link does not work: it was used already, is older than 10 minutes, or never was one",
        next_step="run `edgectl dashboard` for a new one",
    )
