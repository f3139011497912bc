"""Routes of trusted pipelines, and the one where a job of CI gets its operator token. They only translate."""

from fastapi import APIRouter, Request, Response

from edgefleet_protocol.clock import Clock
from edgefleet_server.access.dependency import Admin
from edgefleet_server.access.model import Principal
from edgefleet_server.access.trusted_pipelines.schemas import IdTokenIn, PipelineIn, PipelineOut, PipelineTokenOut
from edgefleet_server.access.trusted_pipelines.service import PipelineBook
from edgefleet_server.db.database import Database
from edgefleet_server.web.guarded_route import GuardedRoute
from edgefleet_server.web.pagination import ListOf
from edgefleet_server.web.preconditions import DryRun, IfMatch, acting, put_location, put_tag, tag_of
from edgefleet_server.web.sparse_fields import ListRoute


def build_router(pipelines: PipelineBook, db: Database, clock: Clock) -> APIRouter:
    """Return the routes for admins, to be mounted under `/api/v1`."""
    router = APIRouter(tags=["access"], route_class=ListRoute)

    @router.get("/trusted-pipelines", operation_id="list_trusted_pipelines")
    def list_trusted_pipelines(_caller: Admin) -> ListOf[PipelineOut]:
        """List the pipelines that may sign in without a stored secret, by name."""
        return ListOf.whole([PipelineOut.of(one) for one in pipelines.pipelines()])

    @router.post("/trusted-pipelines", operation_id="create_trusted_pipeline", status_code=201)
    def create_trusted_pipeline(wanted: PipelineIn, response: Response, dry_run: DryRun, caller: Admin) -> PipelineOut:
        """Trust a pipeline: its jobs get operator tokens for 15 minutes by the ID tokens of their CI."""
        with acting(db, dry_run=dry_run):
            made = PipelineOut.of(pipelines.add(wanted.rule(caller.name, clock.now())))
        put_location(response, f"/trusted-pipelines/{made.name}")
        put_tag(response, _tag(made))
        return made

    @router.get("/trusted-pipelines/{name}", operation_id="get_trusted_pipeline")
    def get_trusted_pipeline(name: str, response: Response, _caller: Admin) -> PipelineOut:
        """Return a trusted pipeline. The ETag names what it trusts, not its last use."""
        found = PipelineOut.of(pipelines.pipeline(name))
        put_tag(response, _tag(found))
        return found

    @router.delete(
        "/trusted-pipelines/{name}",
        operation_id="delete_trusted_pipeline",
        status_code=204,
        response_class=Response,
    )
    def delete_trusted_pipeline(name: str, expected: IfMatch, dry_run: DryRun, _caller: Admin) -> Response:
        """Trust a pipeline no longer. Operator tokens that it has end at once."""
        with acting(db, dry_run=dry_run), db.session():
            expected.check(lambda: _tag(PipelineOut.of(pipelines.pipeline(name))))
            pipelines.remove(name)
        return Response(status_code=204)

    return router


def build_exchange_router(pipelines: PipelineBook) -> APIRouter:
    """Return the route for jobs of CI, to be mounted under `/api/v1` without the check of operator tokens."""

    class ExchangeRoute(GuardedRoute):
        def guard(self, request: Request) -> None:
            pipelines.take_turn(request.client.host if request.client is not None else "")

    router = APIRouter(tags=["access"], route_class=ExchangeRoute)

    @router.post("/pipeline-tokens", operation_id="create_pipeline_token", status_code=201, responses={403: {}})
    def create_pipeline_token(wanted: IdTokenIn, request: Request) -> PipelineTokenOut:
        """Exchange the ID token of a job of CI for an operator token of 15 minutes. Each ID token works once."""
        made, pipeline = pipelines.exchange(wanted.id_token, wanted.pipeline)
        view = made.view
        request.state.principal = Principal(
            view.id, view.name, frozenset(view.roles), scoped=view.scoped
        )  # for the audit trail
        return PipelineTokenOut.of(made, pipeline)

    return router


def _tag(pipeline: PipelineOut) -> str:
    return tag_of(pipeline.model_dump(mode="json", exclude={"last_used_at", "repository_id"}))
