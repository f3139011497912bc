"""Operator routes of devices that wait to be let in. They only translate."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Response

from edgefleet_server.access.dependency import require
from edgefleet_server.access.model import Principal, Role
from edgefleet_server.composition.container import Parts
from edgefleet_server.db.keyset import PageRequest
from edgefleet_server.fleet.enrolment.approval import Choice, Decisions, PendingView, place_of
from edgefleet_server.fleet.enrolment.model import ClaimView
from edgefleet_server.fleet.enrolment.pending import PendingState
from edgefleet_server.fleet.enrolment.schemas import PendingChoiceIn, RejectIn
from edgefleet_server.web.pagination import ListOf, paged
from edgefleet_server.web.preconditions import DryRun, IfMatch, acting, put_tag, tag_of

Viewer = Annotated[Principal, Depends(require(Role.VIEWER))]
Operator = Annotated[Principal, Depends(require(Role.OPERATOR))]
PendingPage = Annotated[PageRequest, paged("asked_at")]


def add_approval_routes(router: APIRouter, parts: Parts) -> None:
    """Add them to the fleet's router."""
    fleet = parts.fleet

    @router.delete(
        "/enrollments/{claim_id}", operation_id="revoke_enrollment", status_code=204, response_class=Response
    )
    def revoke_enrollment(claim_id: str, expected: IfMatch, dry_run: DryRun, _caller: Operator) -> Response:
        """Make a claim token worthless: nobody enrols with it any more, and who waits with it has waited in vain."""
        with acting(parts.db, dry_run=dry_run), parts.db.session():
            expected.check(lambda: _tag(fleet.enroller.claim(claim_id)))
            fleet.enroller.revoke_claim(claim_id)
        return Response(status_code=204)

    @router.get("/enrollments/pending", operation_id="list_pending_devices")
    def list_pending_devices(
        page: PendingPage,
        _caller: Viewer,
        state: PendingState = PendingState.PENDING,
        selector: Annotated[str, Query(max_length=4096)] = "",
        claim: Annotated[str | None, Query(max_length=32)] = None,
    ) -> ListOf[PendingView]:
        """List devices that wait to be let in, who asked first first; with `state` those that were decided about."""
        found, total = fleet.approvals.page(page, state=state, selector=selector, claim=claim)
        return ListOf.cut(found, page, total, place_of)

    @router.get("/enrollments/{claim_id}", operation_id="get_enrollment")  # behind `pending`, which is no claim
    def get_enrollment(claim_id: str, response: Response, _caller: Viewer) -> ClaimView:
        """Return one claim token without its secret. The ETag names its terms, not how often it was used."""
        found = fleet.enroller.claim(claim_id)
        put_tag(response, _tag(found))
        return found

    @router.post("/enrollments/pending:approve", operation_id="approve_pending_devices")
    def approve_pending_devices(wanted: PendingChoiceIn, caller: Operator) -> Decisions:
        """Let waiting devices in: each takes one use of its claim token."""
        return fleet.approvals.approve(Choice(wanted.ids, wanted.selector, wanted.claim), caller.name)

    @router.post("/enrollments/pending:reject", operation_id="reject_pending_devices")
    def reject_pending_devices(wanted: RejectIn, caller: Operator) -> Decisions:
        """Refuse waiting devices, which is final for their keys."""
        return fleet.approvals.reject(Choice(wanted.ids, wanted.selector, wanted.claim), caller.name, wanted.reason)


def _tag(claim: ClaimView) -> str:
    return tag_of(claim.id, claim.uses, claim.expires_at, claim.profile, dict(claim.labels), claim.approval)
