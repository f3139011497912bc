"""Operator routes of claim tokens, and of devices that wait to be let in. They only translate."""

from datetime import timedelta
from typing import Annotated

from fastapi import APIRouter, Query, Response

from edgefleet_server.access.dependency import Operator, Viewer
from edgefleet_server.db.database import Database
from edgefleet_server.db.keyset import PageRequest
from edgefleet_server.fleet.enrolment.agent_installer import AgentInstaller
from edgefleet_server.fleet.enrolment.approval import ApprovalBook, Choice, Decisions, PendingView, place_of
from edgefleet_server.fleet.enrolment.enrolment import Enroller
from edgefleet_server.fleet.enrolment.model import ClaimView
from edgefleet_server.fleet.enrolment.pending_devices import PendingState
from edgefleet_server.fleet.enrolment.schemas import ClaimTokensOut, EnrollmentIn, PendingChoiceIn, RejectIn
from edgefleet_server.fleet.enrolment.service import EnrolmentService
from edgefleet_server.web.pagination import ById, ListOf, paged
from edgefleet_server.web.preconditions import DryRun, IfMatch, acting, put_tag, tag_of
from edgefleet_server.web.sparse_fields import ListRoute

PendingPage = Annotated[PageRequest, paged("asked_at")]


def build_router(
    enrolment: EnrolmentService, enroller: Enroller, installer: AgentInstaller, approvals: ApprovalBook, db: Database
) -> APIRouter:
    """Return the routes, to be mounted under `/api/v1`."""
    router = APIRouter(tags=["fleet"], route_class=ListRoute)
    _add_claim_routes(router, enrolment, enroller, installer)
    _add_approval_routes(router, enroller, approvals, db)
    return router


def _add_claim_routes(
    router: APIRouter, enrolment: EnrolmentService, enroller: Enroller, installer: AgentInstaller
) -> None:
    @router.post("/enrollments", operation_id="create_enrollments", status_code=201)
    def create_enrollments(wanted: EnrollmentIn, caller: Operator) -> ClaimTokensOut:
        """Make claim tokens; their text is in this answer and nowhere else."""
        made = enrolment.create_claims(
            count=wanted.count,
            uses=wanted.uses,
            ttl=timedelta(seconds=wanted.ttl_s),
            labels=wanted.labels,
            profile=wanted.profile,
            name_prefix=wanted.name_prefix,
            approval=wanted.approval,
            display_name=wanted.display_name,
            created_by=caller.name,
        )
        return ClaimTokensOut(tokens=made, install=installer.line())

    @router.get("/enrollments", operation_id="list_enrollments")
    def list_enrollments(page: ById, _caller: Viewer) -> ListOf[ClaimView]:
        """List claim tokens without their secrets."""
        found, total = enroller.claims(page.after, page.limit + 1)
        return ListOf.cut(found, page, total, lambda claim: claim.id)


def _add_approval_routes(router: APIRouter, enroller: Enroller, approvals: ApprovalBook, db: Database) -> None:
    @router.delete(
        "/enrollments/{claim_id}", operation_id="revoke_enrollment", status_code=204, response_class=Response
    )
    def revoke_enrollment(claim_id: str, expected: IfMatch, dry_run: DryRun, _caller: Operator) -> Response:
        """Make a claim token worthless: nobody enrols with it any more, and who waits with it has waited in vain."""
        with acting(db, dry_run=dry_run), db.session():
            expected.check(lambda: _tag(enroller.claim(claim_id)))
            enroller.revoke_claim(claim_id)
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
        found, total = approvals.page(page, state=state, selector=selector, claim=claim)
        return ListOf.cut(found, page, total, place_of)

    @router.get("/enrollments/{claim_id}", operation_id="get_enrollment")  # behind `pending`, which is no claim
    def get_enrollment(claim_id: str, response: Response, _caller: Viewer) -> ClaimView:
        """Return one claim token without its secret. The ETag names its terms, not how often it was used."""
        found = enroller.claim(claim_id)
        put_tag(response, _tag(found))
        return found

    @router.post("/enrollments/pending:approve", operation_id="approve_pending_devices")
    def approve_pending_devices(wanted: PendingChoiceIn, caller: Operator) -> Decisions:
        """Let waiting devices in: each takes one use of its claim token."""
        return approvals.approve(Choice(wanted.ids, wanted.selector, wanted.claim), caller.name)

    @router.post("/enrollments/pending:reject", operation_id="reject_pending_devices")
    def reject_pending_devices(wanted: RejectIn, caller: Operator) -> Decisions:
        """Refuse waiting devices, which is final for their keys."""
        return approvals.reject(Choice(wanted.ids, wanted.selector, wanted.claim), caller.name, wanted.reason)


def _tag(claim: ClaimView) -> str:
    return tag_of(
        claim.id, claim.uses, claim.expires_at, claim.profile, dict(claim.labels), claim.approval, claim.display_name
    )
