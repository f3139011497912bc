"""The API: tokens, their holders and the audit trail. Made by `python -m tests.house.api_structs`."""

from edgefleet_cli.core.structs import UNSET, Body, Struct, Unset


class AuditHead(Struct, frozen=True):
    at: str = ""
    chain: str = ""
    root: str = ""
    size: int = 0


class AuditChain(Struct, frozen=True):
    entries: int = 0
    head: AuditHead | None = None


class Audit(Struct, frozen=True):
    action: str = ""
    actor: str = ""
    at: str = ""
    hash: str | None = None
    id: int = 0
    n: int | None = None
    object: str = ""
    request_id: str = ""
    status: int = 0


class GrantIn(Body, frozen=True, kw_only=True):
    groups: tuple[str, ...] | Unset = UNSET
    models: tuple[str, ...] | Unset = UNSET
    role: str
    sites: tuple[str, ...] | Unset = UNSET


class Grant(Struct, frozen=True):
    groups: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    role: str = ""
    sites: tuple[str, ...] = ()


class IdTokenIn(Body, frozen=True, kw_only=True):
    id_token: str
    pipeline: str | Unset = UNSET


class IdentityLinkIn(Body, frozen=True, kw_only=True):
    person: str | Unset = UNSET


class Identity(Struct, frozen=True):
    email: str = ""
    first_seen_at: str = ""
    id: str = ""
    issuer: str = ""
    last_seen_at: str = ""
    name: str = ""
    person: str = ""
    provider: str = ""
    subject: str = ""


class InvitationIn(Body, frozen=True, kw_only=True):
    expires_at: str | Unset | None = UNSET
    person: str
    roles: tuple[str, ...] | Unset = UNSET


class Invitation(Struct, frozen=True):
    expires_at: str = ""
    person: str = ""
    roles: tuple[str, ...] = ()
    url_path: str = ""


class LoginLink(Struct, frozen=True):
    expires_at: str = ""
    url: str = ""
    url_path: str = ""


class NewToken(Struct, frozen=True):
    created_at: str = ""
    created_by: str = ""
    expires_at: str | None = None
    id: str = ""
    kind: str = ""
    last_used_at: str | None = None
    name: str = ""
    person: str = ""
    revoked_at: str | None = None
    roles: tuple[str, ...] = ()
    scoped: tuple[Grant, ...] = ()
    token: str = ""


class OwnTokenIn(Body, frozen=True, kw_only=True):
    expires_at: str | Unset | None = UNSET
    groups: tuple[str, ...] | Unset = UNSET
    models: tuple[str, ...] | Unset = UNSET
    name: str
    roles: tuple[str, ...] | Unset = UNSET
    scoped: tuple[GrantIn, ...] | Unset = UNSET
    sites: tuple[str, ...] | Unset = UNSET


class PersonChangeIn(Body, frozen=True, kw_only=True):
    disabled: bool


class PersonIn(Body, frozen=True, kw_only=True):
    kind: str | Unset = UNSET
    name: str


class Person(Struct, frozen=True):
    account: str = ""
    created_at: str = ""
    created_by: str = ""
    disabled_at: str | None = None
    grants: tuple[Grant, ...] | None = None
    id: str = ""
    kind: str = ""
    name: str = ""
    tokens: int = 0


class PipelineIn(Body, frozen=True, kw_only=True):
    environment: str | Unset = UNSET
    groups: tuple[str, ...] | Unset = UNSET
    issuer: str | Unset = UNSET
    models: tuple[str, ...] | Unset = UNSET
    name: str
    provider: str
    ref: str
    repository: str
    repository_id: str | Unset = UNSET
    roles: tuple[str, ...] | Unset = UNSET
    scoped: tuple[GrantIn, ...] | Unset = UNSET
    sites: tuple[str, ...] | Unset = UNSET
    workflow: str | Unset = UNSET


class Pipeline(Struct, frozen=True):
    created_at: str = ""
    created_by: str = ""
    environment: str = ""
    issuer: str = ""
    last_used_at: str | None = None
    name: str = ""
    provider: str = ""
    ref: str = ""
    repository: str = ""
    repository_id: str = ""
    roles: tuple[str, ...] = ()
    scoped: tuple[Grant, ...] = ()
    service: str = ""
    workflow: str = ""


class PipelineToken(Struct, frozen=True):
    expires_at: str = ""
    id: str = ""
    name: str = ""
    pipeline: str = ""
    roles: tuple[str, ...] = ()
    scoped: tuple[Grant, ...] = ()
    token: str = ""


class TokenIn(Body, frozen=True, kw_only=True):
    expires_at: str | Unset | None = UNSET
    groups: tuple[str, ...] | Unset = UNSET
    models: tuple[str, ...] | Unset = UNSET
    name: str
    never_expires: bool | Unset = UNSET
    person: str | Unset = UNSET
    roles: tuple[str, ...] | Unset = UNSET
    scoped: tuple[GrantIn, ...] | Unset = UNSET
    sites: tuple[str, ...] | Unset = UNSET


class Token(Struct, frozen=True):
    created_at: str = ""
    created_by: str = ""
    expires_at: str | None = None
    id: str = ""
    kind: str = ""
    last_used_at: str | None = None
    name: str = ""
    person: str = ""
    revoked_at: str | None = None
    roles: tuple[str, ...] = ()
    scoped: tuple[Grant, ...] = ()


class WhoAmI(Struct, frozen=True):
    expires_at: str | None = None
    id: str = ""
    kind: str = ""
    limits: tuple[Grant, ...] | None = None
    name: str = ""
    person: str = ""
    roles: tuple[str, ...] = ()
    scoped: tuple[Grant, ...] = ()
    tenant: str = ""
