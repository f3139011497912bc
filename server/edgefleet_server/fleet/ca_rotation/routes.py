"""Operator routes of rotations of the device CA. They only translate."""

from fastapi import APIRouter

from edgefleet_server.access.dependency import Admin, Viewer
from edgefleet_server.db.database import Database
from edgefleet_server.fleet.ca_rotation.model import CaRotation
from edgefleet_server.fleet.ca_rotation.schemas import CaRotationFinishIn, CaRotationStartIn
from edgefleet_server.fleet.ca_rotation.service import CaRotationBook
from edgefleet_server.web.pagination import ListOf
from edgefleet_server.web.preconditions import DryRun, acting
from edgefleet_server.web.sparse_fields import ListRoute


def build_router(rotations: CaRotationBook, db: Database) -> APIRouter:
    """Return the routes, to be mounted under `/api/v1`."""
    router = APIRouter(tags=["fleet"], route_class=ListRoute)

    @router.get("/ca-rotations", operation_id="list_ca_rotations")
    def list_ca_rotations(_caller: Viewer) -> ListOf[CaRotation]:
        """List the newest rotations of the device CA, the newest first, and how many devices have followed each."""
        return ListOf.whole(rotations.rotations())

    @router.post("/ca-rotations", operation_id="start_ca_rotation", status_code=201)
    def start_ca_rotation(wanted: CaRotationStartIn, caller: Admin) -> CaRotation:
        """Make the next device CA, let the broker trust both, and ask all devices, signed, to renew their certificates early."""
        with acting(db, dry_run=False):
            by = f"{caller.name} ({caller.id})"
            return rotations.start(spread_s=wanted.spread_s, reason=wanted.reason, by=by)

    @router.post("/ca-rotations:undo", operation_id="undo_ca_rotation")
    def undo_ca_rotation(dry_run: DryRun, _caller: Admin) -> CaRotation:
        """Call all devices back to the CA of before."""
        with acting(db, dry_run=dry_run):
            return rotations.undo()

    @router.post("/ca-rotations:finish", operation_id="finish_ca_rotation")
    def finish_ca_rotation(wanted: CaRotationFinishIn, dry_run: DryRun, _caller: Admin) -> CaRotation:
        """Trust one CA only, end the sessions of the other, and destroy its key. Refused while devices are missing that are online."""
        with acting(db, dry_run=dry_run):
            return rotations.finish(leave_behind=wanted.leave_behind, reason=wanted.reason)

    return router
