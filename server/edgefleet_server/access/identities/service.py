"""Identities: people sign in by an identity provider, and admins say which person an identity is. Thread-safe; calls block.

- An identity is issuer and subject. Nobody is known by a name or an e-mail address, and no person is found by them.
- Its roles are those of a token without a text, written again at each sign-in and ending with it. So sessions, quotas and revocation are
  the same as everywhere, and all browsers of an identity have the roles of the last sign-in. Who has none any more is signed out.
- Whose an identity was is remembered: one that goes to another person takes along what it made (`know_history`), so that nobody approves
  with one name what they made with another.
Source: ADR 0131.
"""

import base64
import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any, Final, Protocol

from sqlmodel import Session

from edgefleet_protocol.clock import Clock
from edgefleet_protocol.digest import sha256_hex
from edgefleet_server.access.accounts.guess_book import GuessBook
from edgefleet_server.access.accounts.store import end_token
from edgefleet_server.access.errors import (
    BadGrantError,
    BadIdentityError,
    BadIdTokenError,
    IdentityRefusedError,
    IssuerUnavailableError,
    PersonExistsError,
    UnknownIdentityError,
)
from edgefleet_server.access.grants.rules import excess, loaded, stored
from edgefleet_server.access.identities import store
from edgefleet_server.access.identities.claim_rules import (
    grants_by_value,
    grants_of,
    refuse_unless_allowed,
    shown_email,
    shown_name,
    subject_of,
)
from edgefleet_server.access.identities.code_flow import CodeFlow, Proofs, Sender, refused_return
from edgefleet_server.access.identities.model import Departure, Identity, ProviderButton
from edgefleet_server.access.identities.tables import IdentityRow, SignInRow
from edgefleet_server.access.model import Grant, NewSession, Owner, PersonKind, Principal, Role
from edgefleet_server.access.openid.id_tokens import IdTokens
from edgefleet_server.access.openid.issuer_keys import IssuerKeys
from edgefleet_server.access.request_quota import Throttle
from edgefleet_server.access.service import AccessService
from edgefleet_server.access.tables import PersonRow, TokenRow
from edgefleet_server.db.database import Database
from edgefleet_server.db.keyset import Page, PageRequest
from edgefleet_server.identity_provider import IdentityProvider
from edgefleet_server.outbound.http_post import Fetched
from edgefleet_server.settings import ServerSettings
from edgefleet_server.web.connection_budget import counted_address

SIGN_IN_LIFE: Final = timedelta(minutes=10)
WAITING_LIFE: Final = timedelta(days=30)
"""After this time those who wait and did not come back give way to others, where too many wait."""
PATH: Final = "/login/with"
"""Below it each provider has its own address to come back to, so that an answer of one is never taken for another's."""
WAITS: Final = "identity_waits"
"""Action of the audit row that says that somebody came who waits for an admin."""
SIGNED_OUT: Final = "logout_by_identity_provider"
"""Action of the audit row that says that an issuer ended the sessions of an identity."""
ROLES_LOST: Final = "roles_lost_at_identity_provider"
"""Action of the audit row that says that an identity came with fewer roles, or with none: what it had signed in with before ended."""
LOGOUT_EVENT: Final = "http://schemas.openid.net/event/backchannel-logout"
MAX_NAME: Final = 80
"""Characters of a person's name."""
MAX_EXCHANGES: Final = 8
"""That wait for one issuer at the same time: a slow one must not hold all threads of the server."""
LOGOUTS_A_MINUTE: Final = 600
"""That one address may send."""
History = Callable[[Owner, Owner], None]
"""(who it was, who it is): what the first made is the second's, too. In the caller's transaction."""


class Outbound(Sender, Protocol):
    """What reads documents of issuers, too."""

    def get(self, url: str, timeout_s: float, limit: int) -> Fetched:
        """GET a URL and return the whole answer. Raises EdgefleetError."""
        ...


class IdentityBook:
    """Signs in by identity providers; lists and links identities."""

    def __init__(
        self, db: Database, clock: Clock, access: AccessService, outbound: Outbound, settings: ServerSettings
    ) -> None:
        """Wire the parts. outbound: `HttpPoster`. Asks nobody yet. Raises BadGrantError, BadIdError for roles that cannot be given."""
        self._db = db
        self._clock = clock
        self._access = access
        self._settings = settings
        self._keys = IssuerKeys(outbound.get, clock)
        self._tokens = IdTokens(self._keys, clock)
        self._outbound = outbound
        self._guesses = GuessBook(db, clock)
        self._throttle = Throttle(clock, LOGOUTS_A_MINUTE)
        self._history: History = lambda was, now: None
        self._providers = {one.name: one for one in settings.identity_providers}
        self._turns = {name: threading.BoundedSemaphore(MAX_EXCHANGES) for name in self._providers}
        for one in settings.identity_providers:
            grants_by_value(one)

    def know_history(self, history: History) -> None:
        """Call `history` when an identity goes from one person to another."""
        self._history = history

    @property
    def buttons(self) -> list[ProviderButton]:
        """The identity providers of the sign-in page."""
        return [ProviderButton(one.name, one.title) for one in self._providers.values()]

    def begin(self, address: str, name: str, to: str) -> Departure:
        """Begin a sign-in. address: of the client; to: the page afterwards.

        Raises UnknownIdentityError, TooManyLoginsError, IssuerUnavailableError.
        """
        provider = self._provider(name)
        self._guesses.take_client(address)
        secret = secrets.token_urlsafe(32)
        proofs = Proofs.of(secret)
        url = self._flow(provider).address(self._keys.configuration(provider.issuer), proofs)
        now = self._clock.now()
        row = SignInRow(
            state_sha256=sha256_hex(proofs.state.encode()),
            provider=name,
            next_page=to[:800],
            ends_at=now + SIGN_IN_LIFE,
        )
        with self._db.session() as session:
            store.add_sign_in(session, row, now)
        return Departure(url, provider.title, secret)

    def finish(self, name: str, cookie: str, query: str) -> tuple[NewSession, str]:
        """Open a session for an issuer's answer, and return the page that was asked for. cookie: of `begin`; each answer is taken once.

        Raises UnknownIdentityError, LoginRefusedError, IdentityRefusedError, IssuerUnavailableError, SettingsError.
        """
        provider = self._provider(name)
        if not self._turns[name].acquire(blocking=False):
            raise IssuerUnavailableError(
                f"{provider.title} is slow, and {MAX_EXCHANGES} people wait for it",
                next_step="sign in again in a minute",
            )
        try:
            claims, to = self._claims_for(provider, cookie, query)
        finally:
            self._turns[name].release()
        return self._let_in(provider, claims), to

    def _claims_for(self, provider: IdentityProvider, cookie: str, query: str) -> tuple[Mapping[str, Any], str]:
        """Return what an issuer says for its answer, and the page that was asked for."""
        proofs = Proofs.of(cookie)
        with self._db.session() as session:
            to = (
                store.take_sign_in(session, sha256_hex(proofs.state.encode()), provider.name, self._clock.now())
                if cookie
                else None
            )
        if to is None:
            raise refused_return()
        configuration, secret = self._keys.configuration(provider.issuer), self._settings.client_secret(provider)
        return self._flow(provider).claims(configuration, proofs, query, secret), to

    def sign_out(self, address: str, name: str, logout_token: str) -> None:
        """End what somebody signed in with, as their issuer says (OpenID Connect Back-Channel Logout 1.0). address: of the client.

        Raises UnknownIdentityError, TooManyRequestsError, BadIdTokenError, IssuerUnavailableError.
        """
        provider = self._provider(name)
        self._throttle.take(counted_address(address))
        claims = self._tokens.claims(logout_token, {provider.issuer}, provider.client_id)
        events = claims.get("events")
        if not isinstance(events, Mapping) or LOGOUT_EVENT not in events or "nonce" in claims:
            raise BadIdTokenError("this token says of nobody that they signed out", next_step="send a logout token")
        with self._db.session() as session:
            row = store.known(session, provider.issuer, subject_of(claims))
            if row is not None:
                self._end(session, provider, row, SIGNED_OUT)

    def identities(self, page: PageRequest) -> Page[Identity]:
        """Return one page of identities by id."""
        with self._db.read() as session:
            rows = store.list_identities(session, page)
        return rows.of([_view(row, person) for row, person in rows.items])

    def waiting(self, most: int) -> list[Identity]:
        """Return identities that wait for an admin, those that came first."""
        with self._db.read() as session:
            return [_view(row, "") for row in store.list_waiting(session, most)]

    def identity(self, key: str) -> Identity:
        """Return an identity. Raises UnknownIdentityError."""
        with self._db.read() as session:
            return self._shown(session, _known(session, key))

    def link(self, key: str, person: str, by: str) -> Identity:
        """Say which person an identity is; "" = a new one. From now on it signs in as that person.

        Raises UnknownIdentityError, UnknownPersonError, BadIdentityError.
        """
        with self._db.session() as session:
            row = _known(session, key, lock=True)
            owner = (
                self._access.people.person(person) if person else self._access.people.person(self._add_person(row, by))
            )
            if owner.kind is not PersonKind.PERSON or owner.disabled_at is not None:
                what = "is disabled" if owner.disabled_at is not None else "is a service"
                raise BadIdentityError(f"{owner.name} {what}", next_step="name a person who is enabled")
            was = store.person_of(session, row.person_id)
            if was is not None and was.id != owner.id:
                self._history(_owner(was), Owner(owner.id, owner.name, owner.kind))
                end_token(session, row.token_id, self._clock.now())
            row.person_id, row.is_linked = owner.id, True
            session.add(row)
            session.flush()
            return self._shown(session, row)

    def unlink(self, key: str) -> Identity:
        """Sign an identity out; it waits for an admin from now on. Raises UnknownIdentityError."""
        with self._db.session() as session:
            row = _known(session, key, lock=True)
            row.is_linked = False
            end_token(session, row.token_id, self._clock.now())
            session.add(row)
            session.flush()
            return self._shown(session, row)

    def _let_in(self, provider: IdentityProvider, claims: Mapping[str, Any]) -> NewSession:
        try:
            refuse_unless_allowed(provider, claims)
            grants = grants_of(provider, claims)
        except IdentityRefusedError:
            self._sign_out(provider, claims)
            raise
        with self._db.session() as session:
            row = self._seen(session, provider, claims)
            opened = self._open(session, provider, row, grants) if row is not None and row.is_linked else None
        if opened is None:
            known_as = "" if row is None else f" {row.id}"
            raise IdentityRefusedError(
                f"{provider.title} knows you, and this server does not know yet which person you are",
                next_step=f"ask an admin of this server to link your identity{known_as} (`edgectl identity list`), then sign in again",
            )
        return opened

    def _seen(self, session: Session, provider: IdentityProvider, claims: Mapping[str, Any]) -> IdentityRow | None:
        """Return the identity of claims, noted if it is new; None when too many wait already."""
        now, subject = self._clock.now(), str(claims["sub"])
        row = store.known(session, provider.issuer, subject)
        if row is None:
            if provider.new_people == "wait" and store.count_waiting(session) >= store.MAX_WAITING:
                store.forget_waiting(session, now - WAITING_LIFE)
                if store.count_waiting(session) >= store.MAX_WAITING:
                    return None
            row = IdentityRow(
                id="i-" + base64.b32encode(secrets.token_bytes(8)).decode().lower()[:12],
                issuer=provider.issuer,
                subject=subject,
                provider=provider.name,
                name=shown_name(claims),
                email=shown_email(claims),
                person_id="",
                is_linked=False,
                token_id="",
                first_seen_at=now,
                last_seen_at=now,
            )
            if not store.add(session, row):
                row = store.known(session, provider.issuer, subject)
                assert row is not None
            elif provider.new_people == "wait":
                self._access.record(f"identity provider {provider.name}", WAITS, f"identity {row.id}", 403, "")
        row.name, row.email, row.last_seen_at = shown_name(claims), shown_email(claims), now
        if provider.new_people == "add" and not row.person_id:
            row.person_id = self._access.people.person(self._add_person(row, f"identity provider {provider.name}")).id
            row.is_linked = True
        session.add(row)
        session.flush()
        return row

    def _open(
        self, session: Session, provider: IdentityProvider, row: IdentityRow, grants: Sequence[Grant]
    ) -> NewSession:
        """Write the roles of a sign-in into the identity's token, and open a session."""
        person, now = store.person_of(session, row.person_id), self._clock.now()
        if person is None or person.disabled_at is not None or person.kind != PersonKind.PERSON:
            raise IdentityRefusedError(
                f"{provider.title} knows you, but you are disabled at this server",
                next_step="ask an admin of this server",
            )
        try:
            self._access.people.check_grants(grants)
        except BadGrantError as error:
            raise IdentityRefusedError(
                f"your roles cannot be given: {error}",
                next_step="an admin corrects `identity_providers` in server.toml",
            ) from error
        token = store.token_of(session, row.token_id)
        if token is not None and excess([*(Grant(Role(one)) for one in token.roles), *loaded(token.grants)], grants):
            self._end(session, provider, row, ROLES_LOST)  # what was made with roles that are lost ends, too
            token = None
        if token is None or token.revoked_at is not None or token.person_id != person.id:
            token = TokenRow(
                id=base64.b32encode(secrets.token_bytes(10)).decode().lower()[:12],
                name=f"sign-in of {person.name} by {provider.name}"[:80],
                secret_sha256="",
                roles=[],
                created_at=now,
                created_by=f"identity provider {provider.name}"[:80],
                person_id=person.id,
            )
            row.token_id = token.id
        token.roles = sorted({one.role.value for one in grants if one.scope.is_whole})
        token.grants = stored(one for one in grants if not one.scope.is_whole)
        token.expires_at = now + timedelta(seconds=provider.session_s)
        session.add(token)
        session.add(row)
        session.flush()
        return self._access.logins.open_session(Principal(token.id, person.name, frozenset(), person.id))

    def _sign_out(self, provider: IdentityProvider, claims: Mapping[str, Any]) -> None:
        """End the sessions of an identity that this server lets in no longer."""
        with self._db.session() as session:
            row = store.known(session, provider.issuer, subject_of(claims))
            if row is not None:
                self._end(session, provider, row, ROLES_LOST)

    def _end(self, session: Session, provider: IdentityProvider, row: IdentityRow, action: str) -> None:
        """End what an identity signed in with, and note it; nothing where that is over already."""
        token = store.token_of(session, row.token_id)
        if token is not None and token.revoked_at is None:
            end_token(session, token.id, self._clock.now())
            self._access.record(f"identity provider {provider.name}", action, f"identity {row.id}", 200, "")

    def _add_person(self, row: IdentityRow, by: str) -> str:
        """Add a person for an identity and return the name: never that of somebody who is there."""
        endings = (f" ({row.provider})", f" ({row.provider} {row.id})")
        names = [row.name[: MAX_NAME - len(ending)] + ending for ending in endings]
        for name in names:
            try:
                made = self._access.people.create(name, PersonKind.PERSON, by=by)
            except PersonExistsError:
                continue
            self._access.record(by, "create_person", f"person {made.id}", 201, "")
            return made.id
        raise BadIdentityError(f"no name is left for {names[1]}", next_step="add a person, and name it")

    def _flow(self, provider: IdentityProvider) -> CodeFlow:
        back = f"{self._settings.dashboard_address}{PATH}/{provider.name}/callback"
        return CodeFlow(provider, back, self._outbound, self._tokens, self._clock)

    def _provider(self, name: str) -> IdentityProvider:
        found = self._providers.get(name)
        if found is None:
            raise UnknownIdentityError(
                f"there is no identity provider {name[:40]!r}", next_step="go back to the sign-in page"
            )
        return found

    def _shown(self, session: Session, row: IdentityRow) -> Identity:
        person = store.person_of(session, row.person_id) if row.is_linked else None
        return _view(row, "" if person is None else person.name)


def _known(session: Session, key: str, *, lock: bool = False) -> IdentityRow:
    row = store.find(session, key, lock=lock)
    if row is None:
        raise UnknownIdentityError(f"there is no identity {key[:40]!r}", next_step="`edgectl identity list` shows all")
    return row


def _owner(row: PersonRow) -> Owner:
    return Owner(row.id, row.name, PersonKind(row.kind))


def _view(row: IdentityRow, person: str) -> Identity:
    return Identity(
        id=row.id,
        provider=row.provider,
        issuer=row.issuer,
        subject=row.subject,
        name=row.name,
        email=row.email,
        person=person,
        person_id=row.person_id if row.is_linked else "",
        first_seen_at=row.first_seen_at,
        last_seen_at=row.last_seen_at,
    )
