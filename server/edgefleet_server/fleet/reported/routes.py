"""Routes of what devices say of a restored server. They only translate."""

from fastapi import APIRouter

from edgefleet_server.access.dependency import Admin
from edgefleet_server.db.database import Database
from edgefleet_server.fleet.reported.metadata_recovery import MetadataRecovery
from edgefleet_server.fleet.reported.model import RecoveryDone, RecoveryView
from edgefleet_server.fleet.reported.schemas import RecoveryIn
from edgefleet_server.web.guarded_route import GuardedRoute
from edgefleet_server.web.preconditions import DryRun, acting


def build_router(recovery: MetadataRecovery, db: Database) -> APIRouter:
    """Return the routes, to be mounted under `/api/v1`."""
    router = APIRouter(tags=["signing"], route_class=GuardedRoute)

    @router.get("/recovery", operation_id="get_recovery")
    def get_recovery(_caller: Admin) -> RecoveryView:
        """Return what devices have seen of a repository that this server lacks, and what signing it again would change."""
        return recovery.view()

    @router.post("/recovery:sign", operation_id="sign_recovery")
    def sign_recovery(wanted: RecoveryIn, dry_run: DryRun, caller: Admin) -> RecoveryDone:
        """Sign all metadata above a version, because this server was restored from an older copy, and make roles of lost models."""
        with acting(db, dry_run=dry_run):
            return recovery.sign(wanted.version, wanted.models, f"{caller.name} ({caller.id})")

    return router
