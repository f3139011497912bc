"""Routes of the access feature: who am I, tokens, login links, audit. The pages that use the links are in `dashboard`."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Response

from edgefleet_server.access.dependency import Admin, Auditor, Viewer
from edgefleet_server.access.model import AuditFilter
from edgefleet_server.access.schemas import AuditOut, LoginLinkOut, NewTokenOut, TokenIn, TokenOut, WhoAmIOut
from edgefleet_server.access.service import AccessService
from edgefleet_server.db.database import Database
from edgefleet_server.db.keyset import PageRequest
from edgefleet_server.web.pagination import EitherWay, ListOf, paged
from edgefleet_server.web.preconditions import DryRun, IfMatch, acting, put_tag
from edgefleet_server.web.sparse_fields import ListRoute
from edgefleet_server.web.strict_types import Moment


async def _audit_filter(
    actor: Annotated[str, Query(max_length=120)] = "",
    action: Annotated[str, Query(max_length=120)] = "",
    target: Annotated[str, Query(max_length=255, alias="object")] = "",
    since: Moment | None = None,
    until: Moment | None = None,
) -> AuditFilter:
    return AuditFilter(actor, action, target, since, until)


TokenPage = Annotated[PageRequest, paged("id", "-id")]
AuditFilterQuery = Annotated[AuditFilter, Depends(_audit_filter)]


def build_router(access: AccessService, db: Database, tenant: str, home: str) -> APIRouter:
    """Return the access routes, to be mounted under `/api/v1`. home: the setting `dashboard_url`."""
    router = APIRouter(tags=["access"], route_class=ListRoute)

    @router.get("/whoami", operation_id="get_whoami")
    def get_whoami(caller: Viewer) -> WhoAmIOut:
        """Return who the token stands for."""
        return WhoAmIOut.of(caller, tenant)

    @router.get("/tokens", operation_id="list_tokens")
    def list_tokens(page: TokenPage, _caller: Admin) -> ListOf[TokenOut]:
        """List tokens, without their secrets."""
        return ListOf.of(access.tokens(page), TokenOut.of)

    @router.post("/tokens", operation_id="create_token", status_code=201)
    def create_token(wanted: TokenIn, caller: Admin) -> NewTokenOut:
        """Make a token; its text is in this answer and nowhere else."""
        made = access.create_token(
            wanted.name,
            wanted.over_all(),
            by=caller.name,
            expires_at=wanted.expires_at,
            person=wanted.person,
            is_endless=wanted.never_expires,
            scoped=wanted.in_parts(),
        )
        return NewTokenOut(**TokenOut.of(made.view).model_dump(), token=made.token)

    @router.get("/tokens/{token_id}", operation_id="get_token")
    def get_token(token_id: str, response: Response, _caller: Admin) -> TokenOut:
        """Return one token, without its secret. The ETag names what it may and until when, not its last use."""
        found = TokenOut.of(access.token(token_id))
        put_tag(response, found.tag())
        return found

    @router.delete("/tokens/{token_id}", operation_id="revoke_token")
    def revoke_token(token_id: str, response: Response, expected: IfMatch, dry_run: DryRun, _caller: Admin) -> TokenOut:
        """Make a token useless at once."""
        with acting(db, dry_run=dry_run), db.session():
            expected.check(lambda: TokenOut.of(access.token(token_id)).tag())
            revoked = TokenOut.of(access.revoke_token(token_id))
        put_tag(response, revoked.tag())
        return revoked

    @router.post("/login-links", operation_id="create_login_link", status_code=201)
    def create_login_link(caller: Viewer) -> LoginLinkOut:
        """Make a link that signs one browser in, once, with the roles of the caller's token."""
        return LoginLinkOut.of(access.logins.create_link(caller), home.rstrip("/"))

    @router.get("/audit", operation_id="list_audit")
    def list_audit(page: EitherWay, what: AuditFilterQuery, _caller: Auditor) -> ListOf[AuditOut]:
        """List who changed what, newest first unless `sort` says otherwise. `actor` and `object` say how theirs begin."""
        return ListOf.of(access.audit(page, what), AuditOut.of)

    return router
