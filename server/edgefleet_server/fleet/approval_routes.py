"""Operator routes of devices that wait to be let in. They only translate."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Response

from edgefleet_server.access.dependency import require
from edgefleet_server.access.model import Principal, Role
from edgefleet_server.fleet.approving import Choice, Decisions, PendingView, place_of
from edgefleet_server.fleet.schemas import PendingChoiceIn, RejectIn
from edgefleet_server.fleet.waiting import PendingState
from edgefleet_server.paging import ListOf, Paging, cut_page
from edgefleet_server.parts import Parts

Viewer = Annotated[Principal, Depends(require(Role.VIEWER))]
Operator = Annotated[Principal, Depends(require(Role.OPERATOR))]


def add_approval_routes(router: APIRouter, parts: Parts) -> None:
    """Add them to the fleet's router."""
    fleet = parts.fleet

    @router.delete(
        "/enrollments/{claim_id}", operation_id="revoke_enrollment", status_code=204, response_class=Response
    )
    def revoke_enrollment(claim_id: str, _caller: Operator) -> Response:
        """Make a claim token worthless: nobody enrols with it any more, and who waits with it has waited in vain."""
        fleet.enroller.revoke_claim(claim_id)
        return Response(status_code=204)

    @router.get("/enrollments/pending", operation_id="list_pending_devices")
    def list_pending_devices(
        page: Paging,
        _caller: Viewer,
        state: PendingState = PendingState.PENDING,
        selector: Annotated[str, Query(max_length=4096)] = "",
        claim: Annotated[str | None, Query(max_length=32)] = None,
    ) -> ListOf[PendingView]:
        """List devices that wait to be let in, who asked first first; with `state` those that were decided about."""
        found, total = fleet.approvals.page(page, state=state, selector=selector, claim=claim)
        cut = cut_page(found, page, total, place_of)
        return ListOf(items=cut.items, next_cursor=cut.next_cursor, total=cut.total)

    @router.post("/enrollments/pending:approve", operation_id="approve_pending_devices")
    def approve_pending_devices(wanted: PendingChoiceIn, caller: Operator) -> Decisions:
        """Let waiting devices in: each takes one use of its claim token."""
        return fleet.approvals.approve(Choice(wanted.ids, wanted.selector, wanted.claim), caller.name)

    @router.post("/enrollments/pending:reject", operation_id="reject_pending_devices")
    def reject_pending_devices(wanted: RejectIn, caller: Operator) -> Decisions:
        """Refuse waiting devices, which is final for their keys."""
        return fleet.approvals.reject(Choice(wanted.ids, wanted.selector, wanted.claim), caller.name, wanted.reason)
