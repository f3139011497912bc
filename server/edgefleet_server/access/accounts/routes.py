"""Routes of local accounts. They only translate; passwords are typed into pages and are in no body of the API."""

from fastapi import APIRouter

from edgefleet_server.access.accounts.schemas import InvitationIn, InvitationOut
from edgefleet_server.access.accounts.service import AccountBook
from edgefleet_server.access.dependency import Admin
from edgefleet_server.web.sparse_fields import ListRoute


def build_router(accounts: AccountBook) -> APIRouter:
    """Return the routes of local accounts, to be mounted under `/api/v1`."""
    router = APIRouter(tags=["access"], route_class=ListRoute)

    @router.post("/invitations", operation_id="create_invitation", status_code=201)
    def create_invitation(wanted: InvitationIn, caller: Admin) -> InvitationOut:
        """Make a one-time code with which a person chooses a password; a password and sessions of before end now."""
        return InvitationOut.of(
            accounts.invite(wanted.person, wanted.roles, by=caller.name, expires_at=wanted.expires_at)
        )

    return router
