"""Answers of the API: tokens, their holders and the audit trail.

Made by `python -m tests.house.api_structs` from `docs/reference/openapi.json`; edit the schemas of the server.
"""

from msgspec import Struct


class Audit(Struct, frozen=True):
    """One row of the audit trail."""

    action: str = ""
    actor: str = ""
    at: str = ""
    id: int = 0
    object: str = ""
    request_id: str = ""
    status: int = 0


class LoginLink(Struct, frozen=True):
    """A one-time login link: open `url_path` at this server in a browser before `expires_at`."""

    expires_at: str = ""
    url_path: str = ""


class NewToken(Struct, frozen=True):
    """A token just made. `token` is shown this once."""

    created_at: str = ""
    created_by: str = ""
    expires_at: str | None = None
    id: str = ""
    last_used_at: str | None = None
    name: str = ""
    revoked_at: str | None = None
    roles: tuple[str, ...] = ()
    token: str = ""


class Token(Struct, frozen=True):
    """A token without its secret."""

    created_at: str = ""
    created_by: str = ""
    expires_at: str | None = None
    id: str = ""
    last_used_at: str | None = None
    name: str = ""
    revoked_at: str | None = None
    roles: tuple[str, ...] = ()


class WhoAmI(Struct, frozen=True):
    """The caller as the server sees it."""

    id: str = ""
    name: str = ""
    roles: tuple[str, ...] = ()
    tenant: str = ""
