"""Routes of models that teams sign. They only translate."""

from fastapi import APIRouter, Response

from edgefleet_protocol.ids import ReleaseRef, parse_model_name
from edgefleet_server.access.dependency import Admin, Operator, Publisher, ScopedPublisher, Viewer
from edgefleet_server.access.grants.grant_scope import Touched
from edgefleet_server.db.database import Database
from edgefleet_server.signing.errors import RoleUnknownError
from edgefleet_server.signing.teams.schemas import TeamAnswerIn, TeamIn
from edgefleet_server.signing.teams.service import TeamService
from edgefleet_server.signing.teams.views import TeamRequestView
from edgefleet_server.web.pagination import ListOf
from edgefleet_server.web.preconditions import DryRun, acting, put_location
from edgefleet_server.web.sparse_fields import ListRoute


def build_router(teams: TeamService, db: Database) -> APIRouter:
    """Return the routes, to be mounted under `/api/v1`."""
    router = APIRouter(tags=["signing"], route_class=ListRoute)

    @router.get("/team-requests", operation_id="list_team_requests")
    def list_team_requests(_caller: Viewer) -> ListOf[TeamRequestView]:
        """List the newest requests for signatures of teams, the newest first; at most one of a model waits."""
        return ListOf.whole(teams.requests())

    @router.get("/team-requests/{request_id}", operation_id="get_team_request")
    def get_team_request(request_id: str, _caller: Viewer) -> TeamRequestView:
        """Return one request: what it changes, who signed it, and the file that is signed."""
        return teams.request(request_id)

    @router.post("/models/{name}:team", operation_id="set_team", status_code=201)
    def set_team(name: str, wanted: TeamIn, response: Response, dry_run: DryRun, _caller: Admin) -> TeamRequestView:
        """Ask these keys to take a model over, or to take the place of those that sign it. In force once enough of them have signed."""
        with acting(db, dry_run=dry_run):
            made = teams.set_team(parse_model_name(name), wanted.keys, wanted.threshold, wanted.new_models)
        put_location(response, f"/team-requests/{made.id}")
        return made

    @router.post("/models/{name}:renew-team", operation_id="renew_team", status_code=201)
    def renew_team(name: str, response: Response, dry_run: DryRun, _caller: Publisher) -> TeamRequestView:
        """Ask the team of a model to sign its role as it is, for a new life."""
        with acting(db, dry_run=dry_run):
            made = teams.renew(parse_model_name(name))
        put_location(response, f"/team-requests/{made.id}")
        return made

    @router.post("/releases/{ref}:ask-team", operation_id="ask_team", status_code=201)
    def ask_team(ref: str, response: Response, dry_run: DryRun, _caller: Publisher) -> TeamRequestView:
        """Ask the team of a model to sign the bundles of a release. What waits for just this already is answered with."""
        release = ReleaseRef.parse(ref)
        with acting(db, dry_run=dry_run):
            made = teams.ask_release(release.model, release.version)
        if made is None:
            raise RoleUnknownError(f"{release.model} is signed by this server, not by a team")
        put_location(response, f"/team-requests/{made.id}")
        return made

    @router.post("/team-requests/{request_id}:sign", operation_id="sign_team_request")
    def sign_team_request(
        request_id: str, wanted: TeamAnswerIn, dry_run: DryRun, scoped: ScopedPublisher
    ) -> TeamRequestView:
        """Add the answer of one of a team. With the last signature that is needed it comes into force."""
        scoped.on(Touched(frozenset({teams.request(request_id).model}), None))
        with acting(db, dry_run=dry_run):
            after = teams.take(request_id, wanted.answer)
        if not dry_run:
            teams.finish()
        return after

    @router.post("/team-requests/{request_id}:drop", operation_id="drop_team_request")
    def drop_team_request(request_id: str, dry_run: DryRun, _caller: Operator) -> TeamRequestView:
        """End a request without its change. This server takes no signature for it then."""
        with acting(db, dry_run=dry_run):
            return teams.drop(request_id)

    return router
