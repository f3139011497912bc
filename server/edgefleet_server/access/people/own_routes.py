"""Routes of the tokens that people make for themselves. They only translate."""

from fastapi import APIRouter, Response
from pydantic import Field

from edgefleet_server.access.dependency import Viewer
from edgefleet_server.access.errors import BadTokenRequestError
from edgefleet_server.access.grants.schemas import RolesIn
from edgefleet_server.access.model import Grant
from edgefleet_server.access.people.own_tokens import OwnTokens
from edgefleet_server.access.schemas import NewTokenOut, TokenOut
from edgefleet_server.db.database import Database
from edgefleet_server.web.pagination import ListOf
from edgefleet_server.web.preconditions import DryRun, IfMatch, acting, put_tag
from edgefleet_server.web.sparse_fields import ListRoute
from edgefleet_server.web.strict_types import Moment


class OwnTokenIn(RolesIn):
    """A token of the caller. No role: all that the caller may. expires_at: null = in 90 days, or sooner, with the caller's token."""

    name: str = Field(min_length=1, max_length=80)
    expires_at: Moment | None = None

    def wanted(self) -> list[Grant]:
        """Return the grants, none for all that the caller may. Raises BadTokenRequestError: a scope without a role is not all of it."""
        if not self.roles and (self.models or self.groups or self.sites):
            raise BadTokenRequestError("which role in this scope? The request names none", next_step="name a role")
        return [*map(Grant, self.over_all()), *self.in_parts()]


def build_router(tokens: OwnTokens, db: Database) -> APIRouter:
    """Return the routes, to be mounted under `/api/v1`."""
    router = APIRouter(tags=["access"], route_class=ListRoute)

    @router.get("/own-tokens", operation_id="list_own_tokens")
    def list_own_tokens(caller: Viewer) -> ListOf[TokenOut]:
        """List the caller's tokens in force, without their secrets."""
        return ListOf.whole([TokenOut.of(one) for one in tokens.tokens(caller)])

    @router.post("/own-tokens", operation_id="create_own_token", status_code=201)
    def create_own_token(body: OwnTokenIn, response: Response, caller: Viewer) -> NewTokenOut:
        """Make a token of the caller, a person. It has no more than they have, and ends with the token or password that made it."""
        made = tokens.create(caller, body.name, body.wanted(), body.expires_at)
        seen = TokenOut.of(made.view)
        put_tag(response, seen.tag())
        return NewTokenOut(**seen.model_dump(), token=made.token)

    @router.delete("/own-tokens/{token_id}", operation_id="revoke_own_token")
    def revoke_own_token(
        token_id: str, response: Response, expected: IfMatch, dry_run: DryRun, caller: Viewer
    ) -> TokenOut:
        """Make a token of the caller useless at once, with those that were made with it."""
        with acting(db, dry_run=dry_run), db.session():
            found = tokens.token(caller, token_id)
            expected.check(TokenOut.of(found).tag)
            revoked = TokenOut.of(tokens.revoke(caller, token_id))
        put_tag(response, revoked.tag())
        return revoked

    return router
