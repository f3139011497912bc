"""Bodies of the access routes."""

from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field

from edgefleet_server.access.grants.schemas import GrantOut, RolesIn
from edgefleet_server.access.model import AuditEntry, LoginLink, PersonKind, Principal, Role, TokenView
from edgefleet_server.web.preconditions import tag_of
from edgefleet_server.web.strict_types import Moment


class WhoAmIOut(BaseModel):
    """The caller as the server sees it. id: of the token; name: of its owner; person: the owner's id; expires_at: when the token ends.

    roles: over the whole fleet; scoped: grants of a part of it; limits: what the owner was granted, beyond which no token of theirs goes,
    null: nothing is said.
    """

    id: str
    name: str
    roles: list[Role]
    tenant: str
    person: str
    kind: PersonKind
    expires_at: datetime | None
    scoped: list[GrantOut]
    limits: list[GrantOut] | None

    @classmethod
    def of(cls, principal: Principal, tenant: str) -> "WhoAmIOut":
        """Return the body for a caller."""
        own = principal
        return cls(
            id=own.id,
            name=own.name,
            roles=sorted(own.roles),
            tenant=tenant,
            person=own.person,
            kind=own.kind,
            expires_at=own.expires_at,
            scoped=[GrantOut.of(one) for one in own.scoped],
            limits=None if own.limits is None else [GrantOut.of(one) for one in own.limits],
        )


class TokenIn(RolesIn):
    """A token to make. person: its owner, by name or id, "" = the one with its name; expires_at: null = in 90 days.

    roles, scoped: one of the two is needed. models, groups, sites: where roles are good, none: everywhere; a viewer sees the whole fleet.
    never_expires: it has no end, for services only.
    """

    name: str = Field(min_length=1, max_length=80)
    expires_at: Moment | None = None
    person: str = Field(default="", max_length=80)
    never_expires: bool = False


class TokenOut(BaseModel):
    """A token without its secret. person: its owner's name, "" = nobody's; kind: what the owner is.

    roles: over the whole fleet; scoped: grants of a part of it.
    """

    model_config = ConfigDict(from_attributes=True)

    id: str
    name: str
    person: str
    kind: PersonKind
    roles: list[Role]
    created_at: datetime
    created_by: str
    expires_at: datetime | None
    last_used_at: datetime | None
    revoked_at: datetime | None
    scoped: list[GrantOut]

    @classmethod
    def of(cls, view: TokenView) -> "TokenOut":
        """Return the body of a token."""
        return cls(
            id=view.id,
            name=view.name,
            person=view.person,
            kind=view.kind,
            roles=list(view.roles),
            created_at=view.created_at,
            created_by=view.created_by,
            expires_at=view.expires_at,
            last_used_at=view.last_used_at,
            revoked_at=view.revoked_at,
            scoped=[GrantOut.of(one) for one in view.scoped],
        )

    def tag(self) -> str:
        """Return its entity tag: of what it may and until when, not of its last use."""
        return tag_of(self.model_dump(mode="json", exclude={"last_used_at"}))


class NewTokenOut(TokenOut):
    """A token just made. `token` is shown this once."""

    token: str


class LoginLinkOut(BaseModel):
    """A one-time login link: open it in a browser before `expires_at`.

    url: the whole address when the server has the setting `dashboard_url`, else "": then `url_path` is at the address that you use.
    """

    model_config = ConfigDict(from_attributes=True)

    url: str = ""
    url_path: str
    expires_at: datetime

    @classmethod
    def of(cls, link: LoginLink, home: str) -> "LoginLinkOut":
        """Return the body of a link. home: address of the pages for people, without a slash at the end; "" if nobody said."""
        return cls(url=home and home + link.url_path, url_path=link.url_path, expires_at=link.expires_at)


class AuditOut(BaseModel):
    """One row of the audit trail. n, hash: its place in the chain, and the hash that covers it and all before it."""

    model_config = ConfigDict(from_attributes=True)

    id: int
    at: datetime
    actor: str
    action: str
    object: str
    status: int
    request_id: str
    n: int | None
    hash: str | None

    @classmethod
    def of(cls, entry: AuditEntry) -> "AuditOut":
        """Return the body of an entry."""
        return cls.model_validate(entry)
