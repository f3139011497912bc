"""Routes of identities. They only translate; people sign in by pages."""

from typing import Annotated

from fastapi import APIRouter

from edgefleet_server.access.dependency import Admin
from edgefleet_server.access.identities.schemas import IdentityLinkIn, IdentityOut
from edgefleet_server.access.identities.service import IdentityBook
from edgefleet_server.db.database import Database
from edgefleet_server.db.keyset import PageRequest
from edgefleet_server.web.pagination import ListOf, paged
from edgefleet_server.web.preconditions import DryRun, acting
from edgefleet_server.web.sparse_fields import ListRoute

IdentityPage = Annotated[PageRequest, paged("id", "-id")]


def build_router(identities: IdentityBook, db: Database) -> APIRouter:
    """Return the routes of identities, to be mounted under `/api/v1`."""
    router = APIRouter(tags=["access"], route_class=ListRoute)

    @router.get("/identities", operation_id="list_identities")
    def list_identities(page: IdentityPage, _caller: Admin) -> ListOf[IdentityOut]:
        """List who has signed in by an identity provider, or waits to, by id."""
        return ListOf.of(identities.identities(page), IdentityOut.of)

    @router.get("/identities/{identity_id}", operation_id="get_identity")
    def get_identity(identity_id: str, _caller: Admin) -> IdentityOut:
        """Return an identity."""
        return IdentityOut.of(identities.identity(identity_id))

    @router.post("/identities/{identity_id}:link", operation_id="link_identity")
    def link_identity(identity_id: str, wanted: IdentityLinkIn, dry_run: DryRun, caller: Admin) -> IdentityOut:
        """Say which person an identity is: it signs in as that person, who cannot approve what either of them made."""
        with acting(db, dry_run=dry_run):
            return IdentityOut.of(identities.link(identity_id, wanted.person, caller.name))

    @router.post("/identities/{identity_id}:unlink", operation_id="unlink_identity")
    def unlink_identity(identity_id: str, dry_run: DryRun, _caller: Admin) -> IdentityOut:
        """Sign an identity out; it waits for an admin from now on."""
        with acting(db, dry_run=dry_run):
            return IdentityOut.of(identities.unlink(identity_id))

    return router
