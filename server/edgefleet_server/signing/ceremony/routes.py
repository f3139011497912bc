"""Routes of requests for signatures. They only translate."""

from typing import Final

from fastapi import APIRouter, Response

from edgefleet_server.access.dependency import Admin, Viewer
from edgefleet_server.db.database import Database
from edgefleet_server.signing.ceremony.schemas import SigningAnswersIn, SigningRequestIn
from edgefleet_server.signing.ceremony.service import CeremonyService, taken
from edgefleet_server.signing.ceremony.views import AnswersTaken, SigningRequestView
from edgefleet_server.signing.errors import BadHolderError
from edgefleet_server.web.pagination import ListOf
from edgefleet_server.web.preconditions import DryRun, acting, put_location
from edgefleet_server.web.sparse_fields import ListRoute

_ONE_OF: Final = "say one thing: `parts` with or without `replace`, `renew`, or `new_keys`"


def build_router(ceremony: CeremonyService, db: Database) -> APIRouter:
    """Return the routes, to be mounted under `/api/v1`."""
    router = APIRouter(tags=["signing"], route_class=ListRoute)

    @router.get("/signing-requests", operation_id="list_signing_requests")
    def list_signing_requests(_caller: Viewer) -> ListOf[SigningRequestView]:
        """List the newest requests for signatures of offline keys, the newest first; at most one of them waits."""
        return ListOf.whole(ceremony.requests())

    @router.get("/signing-requests/{request_id}", operation_id="get_signing_request")
    def get_signing_request(request_id: str, _caller: Viewer) -> SigningRequestView:
        """Return one request: what it changes, which signatures it lacks, and the file to carry to the holders."""
        return ceremony.request(request_id)

    @router.post("/signing-requests", operation_id="create_signing_request", status_code=201)
    def create_signing_request(
        wanted: SigningRequestIn, response: Response, dry_run: DryRun, _caller: Admin
    ) -> SigningRequestView:
        """Ask for signatures: to give root and targets to holders, to replace one, to renew them, or for new keys of roles."""
        with acting(db, dry_run=dry_run):
            made = _made(ceremony, wanted)
        put_location(response, f"/signing-requests/{made.id}")
        return made

    @router.post("/signing-requests/{request_id}:sign", operation_id="sign_signing_request")
    def sign_signing_request(
        request_id: str, wanted: SigningAnswersIn, dry_run: DryRun, _caller: Admin
    ) -> AnswersTaken:
        """Add answers of holders. With the last signature that is needed it comes into force, and keys of old are destroyed here."""
        before = ceremony.request(request_id)
        with acting(db, dry_run=dry_run):
            after = ceremony.take(request_id, wanted.answers)
        return taken(before, after, [] if dry_run else ceremony.finish())

    @router.post("/signing-requests/{request_id}:drop", operation_id="drop_signing_request")
    def drop_signing_request(request_id: str, dry_run: DryRun, _caller: Admin) -> SigningRequestView:
        """End a request without its change. This server takes no signature for it then."""
        with acting(db, dry_run=dry_run):
            return ceremony.drop(request_id)

    return router


def _made(ceremony: CeremonyService, wanted: SigningRequestIn) -> SigningRequestView:
    asked = [bool(wanted.parts), bool(wanted.renew), bool(wanted.new_keys)]
    if asked.count(True) != 1 or (wanted.replace and len(wanted.parts) != 1):
        raise BadHolderError(_ONE_OF)
    if wanted.new_keys:
        return ceremony.renew_keys(wanted.new_keys)
    if wanted.renew:
        return ceremony.renew(wanted.renew)
    if wanted.replace:
        return ceremony.replace_holder(wanted.replace, wanted.parts[0])
    return ceremony.give_to_holders(wanted.parts, wanted.threshold)
