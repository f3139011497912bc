"""Operator routes of devices whose certificate ended and that ask to come back. They only translate."""

from fastapi import APIRouter

from edgefleet_server.access.dependency import Operator, Viewer
from edgefleet_server.fleet.readmission.model import ReadmissionDecisions, ReadmissionState, ReadmissionView
from edgefleet_server.fleet.readmission.schemas import ReadmissionRefusalIn, ReadmissionsIn
from edgefleet_server.fleet.readmission.service import ReadmissionBook
from edgefleet_server.web.pagination import ByDevice, ListOf
from edgefleet_server.web.sparse_fields import ListRoute


def build_router(readmissions: ReadmissionBook) -> APIRouter:
    """Return the routes, to be mounted under `/api/v1`."""
    router = APIRouter(tags=["fleet"], route_class=ListRoute)

    @router.get("/readmissions", operation_id="list_readmissions")
    def list_readmissions(
        page: ByDevice, _caller: Viewer, state: ReadmissionState = ReadmissionState.PENDING
    ) -> ListOf[ReadmissionView]:
        """List devices whose certificate ended while they were away and that wait to come back; with `state` the others."""
        found, total = readmissions.page(page, state)
        return ListOf.cut(found, page, total, lambda one: one.device)

    @router.post("/readmissions:approve", operation_id="approve_readmissions")
    def approve_readmissions(wanted: ReadmissionsIn, caller: Operator) -> ReadmissionDecisions:
        """Let devices come back: each gets a certificate the next time it asks, within seven days."""
        return readmissions.approve(wanted.devices, f"{caller.name} ({caller.id})")

    @router.post("/readmissions:refuse", operation_id="refuse_readmissions")
    def refuse_readmissions(wanted: ReadmissionRefusalIn, caller: Operator) -> ReadmissionDecisions:
        """Let devices come back no more, until a person approves them."""
        return readmissions.refuse(wanted.devices, f"{caller.name} ({caller.id})", wanted.reason)

    return router
