"""Roles and the signed-in caller."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from edgefleet_server.access.grants.grant_scope import EVERYTHING, WHOLE, Scope, Touched


class Role(StrEnum):
    """What a token may do. Stored and public: never renamed."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    PUBLISHER = "publisher"
    APPROVER = "approver"
    AUDITOR = "auditor"
    ADMIN = "admin"


class PersonKind(StrEnum):
    """What a name stands for. Stored and public: never renamed."""

    PERSON = "person"
    SERVICE = "service"


INCLUDES: dict[Role, frozenset[Role]] = {
    Role.VIEWER: frozenset({Role.VIEWER}),
    Role.OPERATOR: frozenset({Role.OPERATOR, Role.VIEWER}),
    Role.PUBLISHER: frozenset({Role.PUBLISHER, Role.VIEWER}),
    Role.APPROVER: frozenset({Role.APPROVER, Role.VIEWER}),
    Role.AUDITOR: frozenset({Role.AUDITOR, Role.VIEWER}),
    Role.ADMIN: frozenset(Role),
}
"""The roles that each role stands for. Approver does not include publisher or operator: two people stay two people."""


@dataclass(frozen=True, slots=True)
class Grant:
    """A role in a scope. The scope of a viewer, an auditor and an admin is always the whole fleet."""

    role: Role
    scope: Scope = WHOLE

    def allows(self, role: Role, touched: Touched) -> bool:
        """Return whether this grant alone gives a role over all that a request touches. Each grant lets its holder read."""
        return role in INCLUDES[self.role] and (role is Role.VIEWER or self.scope.contains(touched))

    def __str__(self) -> str:
        return self.role.value if self.scope.is_whole else f"{self.role} ({self.scope})"


@dataclass(frozen=True, slots=True)
class Principal:
    """Who makes a request: the token's id, its owner's name, and what it was granted.

    roles: over the whole fleet; scoped: grants of a part of it. limits: what the owner was granted, beyond which no token of theirs goes;
    None: nothing is said of the owner, and the token decides. person: the owner's id, "" for a token without one, which may approve
    nothing; expires_at: when the token ends, None: never.
    """

    id: str
    name: str
    roles: frozenset[Role]
    person: str = ""
    kind: PersonKind = PersonKind.PERSON
    expires_at: datetime | None = None
    scoped: tuple[Grant, ...] = ()
    limits: tuple[Grant, ...] | None = None

    @property
    def grants(self) -> tuple[Grant, ...]:
        """What the token was granted: over the whole fleet first."""
        return (*(Grant(role) for role in sorted(self.roles)), *self.scoped)

    @property
    def rights(self) -> tuple[frozenset[Role], tuple[Grant, ...], tuple[Grant, ...] | None]:
        """All that decides what this caller may do."""
        return self.roles, self.scoped, self.limits

    def may(self, role: Role, touched: Touched = EVERYTHING) -> bool:
        """Return whether this caller holds ``role`` over all that a request touches.

        One grant has to give it, alone: grants are never added up. What limits the owner holds in the same way.
        """
        own = any(one.allows(role, touched) for one in self.grants)
        return own and (self.limits is None or any(one.allows(role, touched) for one in self.limits))

    def may_somewhere(self, role: Role) -> bool:
        """Return whether this caller holds ``role`` in any scope at all: what a request touches is asked then."""
        own = any(role in INCLUDES[one.role] for one in self.grants)
        return own and (self.limits is None or any(role in INCLUDES[one.role] for one in self.limits))

    def said(self) -> str:
        """Return what the caller was granted, in words: of the token, and what limits its owner."""
        own = ", ".join(map(str, self.grants)) or "none"
        if self.limits is None:
            return own
        return f"{own}, within what {self.name} was granted: {', '.join(map(str, self.limits)) or 'nothing'}"


@dataclass(frozen=True, slots=True)
class TokenView:
    """A token as it may be shown: everything but its secret. person: its owner's name; kind: what the owner is.

    roles: over the whole fleet; scoped: grants of a part of it.
    """

    id: str
    name: str
    person: str
    kind: PersonKind
    roles: tuple[Role, ...]
    scoped: tuple[Grant, ...]
    created_at: datetime
    created_by: str
    expires_at: datetime | None
    last_used_at: datetime | None
    revoked_at: datetime | None


@dataclass(frozen=True, slots=True)
class NewToken:
    """A token just made; `token` is its text, which is shown once and stored nowhere."""

    view: TokenView
    token: str


@dataclass(frozen=True, slots=True)
class LoginLink:
    """A one-time login link just made: the path that a browser opens, and until when it works."""

    url_path: str
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class BrowserSession:
    """A browser that is signed in. `form_key` proves that a form was sent by one of our pages to this session."""

    id: str
    principal: Principal
    expires_at: datetime
    form_key: str


def is_in_force(
    expires_at: datetime | None, revoked_at: datetime | None, now: datetime, disabled_at: datetime | None = None
) -> bool:
    """Return whether a token has neither ended nor been revoked, and its owner is not disabled."""
    return revoked_at is None and disabled_at is None and (expires_at is None or expires_at > now)


@dataclass(frozen=True, slots=True)
class Owner:
    """To whom a token belongs. id "": to nobody. grants: what limits all their tokens, None: nothing is said."""

    id: str = ""
    name: str = ""
    kind: PersonKind = PersonKind.PERSON
    disabled_at: datetime | None = None
    grants: tuple[Grant, ...] | None = None

    def name_of(self, token: str) -> str:
        """Return the name of a caller with this token: its owner's, and of a service `NAME@REF` what one run of it is called."""
        is_run = self.kind is PersonKind.SERVICE and token.startswith(f"{self.name}@")
        return token if is_run else self.name or token


@dataclass(frozen=True, slots=True)
class SignedIn:
    """What is stored of a browser's session, and what its token and that token's owner say now."""

    session_id: str
    secret_sha256: str
    expires_at: datetime
    token_id: str
    name: str
    roles: Sequence[str]
    token_expires_at: datetime | None
    revoked_at: datetime | None
    owner: Owner = Owner()
    scoped: tuple[Grant, ...] = ()

    def is_valid(self, now: datetime) -> bool:
        """Whether neither the session nor its token has ended, and the owner is not disabled."""
        ends, revoked_at = self.token_expires_at, self.revoked_at
        return self.expires_at > now and is_in_force(ends, revoked_at, now, self.owner.disabled_at)


@dataclass(frozen=True, slots=True)
class NewSession:
    """A session just opened; `cookie` is its secret, which goes to the browser and is stored nowhere."""

    session: BrowserSession
    cookie: str


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One row of the audit trail. `object` is what the action was done to. n, hash: in the chain, None until it is chained."""

    id: int
    at: datetime
    actor: str
    action: str
    object: str
    status: int
    request_id: str
    n: int | None = None
    hash: str | None = None


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """Which audit rows: all that are given must hold. actor, object: how theirs begin; action: exactly; from since on, before until."""

    actor: str = ""
    action: str = ""
    object: str = ""
    since: datetime | None = None
    until: datetime | None = None
