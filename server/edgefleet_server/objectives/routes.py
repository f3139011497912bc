"""Routes of objectives. They only translate."""

from fastapi import APIRouter, Response

from edgefleet_server.access.dependency import Operator, Viewer
from edgefleet_server.db.database import Database
from edgefleet_server.objectives.model import SloDetail, SloView
from edgefleet_server.objectives.schemas import SloIn
from edgefleet_server.objectives.service import ObjectiveBook, SloStamp
from edgefleet_server.web.pagination import ListOf
from edgefleet_server.web.preconditions import DryRun, IfMatch, acting, put_tag, tag_of
from edgefleet_server.web.sparse_fields import ListRoute


def build_router(objectives: ObjectiveBook, db: Database) -> APIRouter:
    """Return the routes of objectives, to be mounted under `/api/v1`."""
    router = APIRouter(tags=["objectives"], route_class=ListRoute)

    @router.get("/slos", operation_id="list_slos")
    def list_slos(_caller: Viewer, model: str = "") -> ListOf[SloView]:
        """List objectives by name, each with what is left of its budget and how fast that burns. model: only of this one."""
        return ListOf.whole(objectives.slos(model))

    @router.get("/slos/{name}", operation_id="get_slo")
    def get_slo(name: str, response: Response, _caller: Viewer) -> SloDetail:
        """Return one objective with its file and the history of its budget. The ETag names the file, not how it stands."""
        found = objectives.slo(name)
        put_tag(response, _tag(name, found.slo))
        return found

    @router.put(
        "/slos/{name}",
        operation_id="put_slo",
        responses={201: {"model": SloView, "description": "it is new"}},
    )
    def put_slo(
        name: str, wanted: SloIn, response: Response, expected: IfMatch, dry_run: DryRun, caller: Operator
    ) -> SloView:
        """Set an objective from its file: make it, or put this one in the place of the one before."""
        with acting(db, dry_run=dry_run):
            with db.session():
                expected.check(lambda: _tag(name, objectives.stamp(name)))
                made, is_new = objectives.put(name, wanted.document(), caller.name)
            shown = objectives.shown(made)  # a report takes a while: only a dry run holds its transaction for it
        response.status_code = 201 if is_new else 200
        put_tag(response, _tag(name, made))
        return shown

    @router.delete("/slos/{name}", operation_id="delete_slo", status_code=204, response_class=Response)
    def delete_slo(name: str, expected: IfMatch, dry_run: DryRun, _caller: Operator) -> Response:
        """Remove an objective; roll-ups stay, samples of the fleet for it go."""
        with acting(db, dry_run=dry_run), db.session():
            expected.check(lambda: _tag(name, objectives.stamp(name)))
            objectives.delete(name)
        return Response(status_code=204)

    return router


def _tag(name: str, one: SloStamp | SloView) -> str:
    return tag_of(name, one.changed_at.isoformat())
