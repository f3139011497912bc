"""Bodies of the access routes."""

from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field

from edgefleet_server.access.model import AuditEntry, LoginLink, Principal, Role, TokenView
from edgefleet_server.web.strict_types import Moment


class WhoAmIOut(BaseModel):
    """The caller as the server sees it."""

    id: str
    name: str
    roles: list[Role]
    tenant: str

    @classmethod
    def of(cls, principal: Principal, tenant: str) -> "WhoAmIOut":
        """Return the body for a caller."""
        return cls(id=principal.id, name=principal.name, roles=sorted(principal.roles), tenant=tenant)


class TokenIn(BaseModel):
    """A token to make."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1, max_length=80)
    roles: list[Role] = Field(min_length=1)
    expires_at: Moment | None = None


class TokenOut(BaseModel):
    """A token without its secret."""

    model_config = ConfigDict(from_attributes=True)

    id: str
    name: str
    roles: list[Role]
    created_at: datetime
    created_by: str
    expires_at: datetime | None
    last_used_at: datetime | None
    revoked_at: datetime | None

    @classmethod
    def of(cls, view: TokenView) -> "TokenOut":
        """Return the body of a token."""
        return cls.model_validate(view)


class NewTokenOut(TokenOut):
    """A token just made. `token` is shown this once."""

    token: str


class LoginLinkOut(BaseModel):
    """A one-time login link: open `url_path` at this server in a browser before `expires_at`."""

    model_config = ConfigDict(from_attributes=True)

    url_path: str
    expires_at: datetime

    @classmethod
    def of(cls, link: LoginLink) -> "LoginLinkOut":
        """Return the body of a link."""
        return cls.model_validate(link)


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
