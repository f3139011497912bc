"""The API app: routes of all features under `/api/v1`, health and figures.

One middleware gives every request an id, times it, counts it, and writes an audit row for every request that could change
something, whatever the answer was. Authorisation runs before every route of `/api/v1` (`access/dependency.py`).
"""

import logging
import re
from functools import partial
from importlib.metadata import version
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.middleware.gzip import GZipMiddleware
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST
from sqlalchemy.exc import SQLAlchemyError
from starlette.middleware.gzip import DEFAULT_EXCLUDED_CONTENT_TYPES
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edgefleet_protocol.clock import Clock
from edgefleet_protocol.errors import EdgefleetError
from edgefleet_server.access import routes as access_routes
from edgefleet_server.access.accounts import routes as account_routes
from edgefleet_server.access.allowed_methods import AllowedMethods
from edgefleet_server.access.audit_chain.chain_routes import build_chain_router
from edgefleet_server.access.dependency import authorize, throttled, viewer_if_named
from edgefleet_server.access.grants.scoped_caller import Reach
from edgefleet_server.access.idempotency.middleware import Idempotency
from edgefleet_server.access.identities import routes as identity_routes
from edgefleet_server.access.model import Principal
from edgefleet_server.access.people import own_routes as own_token_routes
from edgefleet_server.access.people import routes as people_routes
from edgefleet_server.access.refusals import ANONYMOUS, Refusal
from edgefleet_server.access.request_quota import Allowance
from edgefleet_server.access.rules import API_PREFIX, OWN_TOKEN_PATH, is_own_token_path
from edgefleet_server.access.service import AccessService
from edgefleet_server.access.trusted_pipelines import routes as pipeline_routes
from edgefleet_server.alerting import routes as alerting_routes
from edgefleet_server.alerting.active_alerts import routes as active_alert_routes
from edgefleet_server.alerting.contact_points import routes as contact_point_routes
from edgefleet_server.composition import prometheus_sd
from edgefleet_server.composition.container import Parts
from edgefleet_server.composition.dashboard_app import build_dashboard, cards_of
from edgefleet_server.composition.openapi import ApiApp
from edgefleet_server.conversion import routes as conversion_routes
from edgefleet_server.conversion.tool_stock import ToolStock
from edgefleet_server.conversion.tool_stock import look as look_at_tools
from edgefleet_server.costing import routes as cost_routes
from edgefleet_server.dashboard.registry.publish_page import UPLOADS
from edgefleet_server.events import routes as event_routes
from edgefleet_server.fleet.ca_rotation import routes as ca_rotation_routes
from edgefleet_server.fleet.desired import routes as desired_routes
from edgefleet_server.fleet.enrolment import routes as enrolment_routes
from edgefleet_server.fleet.inventory import group_routes
from edgefleet_server.fleet.inventory import routes as inventory_routes
from edgefleet_server.fleet.moves import routes as move_routes
from edgefleet_server.fleet.protection import routes as protection_routes
from edgefleet_server.fleet.readmission import routes as readmission_routes
from edgefleet_server.fleet.reported import routes as recovery_routes
from edgefleet_server.fleet.selectors.device_selector import crowd_of
from edgefleet_server.governance import routes as governance_routes
from edgefleet_server.governance.release_policies.routes import build_policy_router
from edgefleet_server.model_cards import routes as model_card_routes
from edgefleet_server.objectives import routes as objective_routes
from edgefleet_server.observability.prometheus import Metrics
from edgefleet_server.registry import routes as registry_routes
from edgefleet_server.retraining import routes as retraining_routes
from edgefleet_server.rollout import routes as rollout_routes
from edgefleet_server.search import routes as search_routes
from edgefleet_server.settings import ServerRole, ServerSettings
from edgefleet_server.signing import routes as signing_routes
from edgefleet_server.signing.ceremony import routes as ceremony_routes
from edgefleet_server.signing.teams import routes as team_routes
from edgefleet_server.telemetry import routes as telemetry_routes
from edgefleet_server.telemetry.drift import routes as drift_routes
from edgefleet_server.telemetry.ground_truth import routes as truth_routes
from edgefleet_server.telemetry.latency import routes as latency_routes
from edgefleet_server.telemetry.predictions import routes as prediction_routes
from edgefleet_server.telemetry.timelines import routes as timeline_routes
from edgefleet_server.web import problems
from edgefleet_server.web.body_limit import API_BODY_BYTES, BodyLimit
from edgefleet_server.web.deferred_route import DeferredRoute, add_routes
from edgefleet_server.webhook import routes as webhook_routes

_READING = frozenset({"GET", "HEAD", "OPTIONS"})
_NEVER_SMALLER = (*DEFAULT_EXCLUDED_CONTENT_TYPES, "application/x-ndjson", "application/octet-stream")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_log = logging.getLogger(__name__)


def create_app(parts: Parts) -> FastAPI:
    """Return the API app of these parts. Opens nothing."""
    app = ApiApp(
        title="edgefleet",
        version=version("edgefleet"),
        description="Ship models to devices: publish, deploy, watch. Errors are problem documents with a next step.",
        openapi_url=None,  # answered from its file
        docs_url=None,  # a page of the dashboard: one of our own files
        redoc_url=None,
    )
    app.state.access = parts.access
    app.state.guard = authorize  # before a body is parsed
    app.state.reach = Reach(parts.fleet.devices.crowd_of_device, parts.rollout.finder.touched, crowd_of)
    problems.install(app)
    for router in api_routers(parts):
        add_routes(app, router, API_PREFIX, [Depends(authorize), Depends(throttled)])
    add_routes(app, alerting_routes.build_hook_router(parts.alerts), API_PREFIX)  # has a token of its own
    add_routes(app, pipeline_routes.build_exchange_router(parts.pipelines), API_PREFIX)  # takes ID tokens
    app.state.dashboard = dashboard = build_dashboard(parts)
    add_routes(app, dashboard.router)
    app.add_route("/openapi.json", lambda _request: JSONResponse(app.described()), include_in_schema=False)
    _add_health_routes(app, parts)
    app.add_middleware(Idempotency, access=parts.access)
    app.add_middleware(AllowedMethods)
    app.add_middleware(
        BodyLimit, limit_bytes=API_BODY_BYTES, unlimited=[("PUT", f"{API_PREFIX}/blobs/"), ("PUT", UPLOADS)]
    )
    app.add_middleware(
        GZipMiddleware, minimum_size=1024, compresslevel=5, exclude_content_types=_NEVER_SMALLER
    )  # streams are not held back, blobs keep their length
    app.add_middleware(_RequestLog, access=parts.access, metrics=parts.metrics, clock=parts.clock)
    return app


def api_routers(parts: Parts) -> list[APIRouter]:
    """Return the routers of all features that take operator tokens, in the order of the API's description."""
    return [
        access_routes.build_router(parts.access, parts.db, parts.settings.tenant, parts.settings.dashboard_url),
        people_routes.build_router(parts.access.people, parts.db),
        own_token_routes.build_router(parts.access.own_tokens, parts.db),
        account_routes.build_router(parts.access.accounts),
        identity_routes.build_router(parts.identities, parts.db),
        pipeline_routes.build_router(parts.pipelines, parts.db, parts.clock),
        build_chain_router(parts.access.chain),
        registry_routes.build_router(parts.registry, parts.signing, parts.db),
        signing_routes.build_router(parts.signing, parts.db),
        ceremony_routes.build_router(parts.signing.ceremony, parts.db),
        team_routes.build_router(parts.signing.teams, parts.db),
        conversion_routes.build_router(
            parts.conversion, parts.registry, parts.db, partial(_tool_stock, parts.settings)
        ),
        *fleet_routers(parts),
        *telemetry_routers(parts),
        rollout_routes.build_router(parts.rollout, parts.db),
        rollout_routes.build_retirement_router(parts.retirement, parts.registry, parts.db),
        webhook_routes.build_router(parts.webhooks, parts.db),
        objective_routes.build_router(parts.objectives, parts.db),
        cost_routes.build_router(parts.costing.book, parts.db),
        alerting_routes.build_router(parts.alerts, parts.db),
        active_alert_routes.build_router(parts.alarm.alerts, parts.alarm.rules, parts.db),
        active_alert_routes.build_silence_router(parts.alarm.silences, parts.db),
        active_alert_routes.build_window_router(parts.alarm.silences, parts.db),
        contact_point_routes.build_router(parts.alarm.contacts, parts.db),
        retraining_routes.build_router(
            parts.retraining.triggers, parts.retraining.runs, parts.retraining.leases, parts.access, parts.db
        ),
        model_card_routes.build_router(cards_of(parts), parts.registry, parts.db),
        search_routes.build_router(parts.search),
        build_policy_router(parts.governance.policies, parts.registry, parts.db),
        governance_routes.build_evidence_router(parts.governance.evidence, parts.registry, parts.access),
        prometheus_sd.build_router(parts.settings.tenant),
    ]


def _tool_stock(settings: ServerSettings) -> ToolStock:
    """Return the tools of this process's converters; a command of the operator's own may have others."""
    converts = ServerRole.CONVERTER in settings.roles and settings.converter_command is None
    return look_at_tools(settings.tools_folder, converts=converts, reads_pickles=settings.allow_pickle)


def fleet_routers(parts: Parts) -> list[APIRouter]:
    """Return the routers of the fleet and of events."""
    fleet, registry, db = parts.fleet, parts.registry, parts.db
    return [
        inventory_routes.build_device_router(
            fleet.reader,
            fleet.lists,
            fleet.edits,
            fleet.revocation.revoke,
            fleet.suspicion,
            parts.telemetry.latest,
            db,
        ),
        enrolment_routes.build_router(fleet.enrolment, fleet.enroller, fleet.installer, fleet.approvals, db),
        desired_routes.build_deploy_router(fleet.deployer, registry, fleet.devices),
        inventory_routes.build_release_router(fleet.reader, registry),
        event_routes.build_router(fleet.feed, fleet.reader.check),
        inventory_routes.build_summary_router(fleet.reader),
        event_routes.build_stream_router(fleet.stream),
        group_routes.build_router(fleet.groups, fleet.lists, db),
        protection_routes.build_router(fleet.protection, db),
        readmission_routes.build_router(fleet.readmissions),
        move_routes.build_router(fleet.moves, db),
        ca_rotation_routes.build_router(fleet.ca_rotations, db),
        desired_routes.build_capture_key_router(fleet.sampling, db),
        desired_routes.build_signing_router(fleet.desired),
        desired_routes.build_task_router(fleet.tasks, fleet.devices),
        recovery_routes.build_router(fleet.recovery, db),
    ]


def telemetry_routers(parts: Parts) -> list[APIRouter]:
    """Return the routers of telemetry."""
    return [
        telemetry_routes.build_router(
            parts.telemetry, parts.costs, parts.comparisons, parts.registry, parts.fleet.reader.check
        ),
        drift_routes.build_router(parts.drift, parts.db),
        timeline_routes.build_router(parts.timelines.reader, parts.clock),
        latency_routes.build_router(parts.timelines.explainer, parts.clock),
        truth_routes.build_router(parts.truth.accuracy, parts.truth.uploads),
        telemetry_routes.build_capture_router(parts.captures, parts.access),
        telemetry_routes.build_watch_router(parts.watching, parts.clock),
        prediction_routes.build_router(parts.predictions, parts.db),
        prediction_routes.build_reading_router(parts.predictions, parts.access),
        prediction_routes.build_erasure_router(parts.erasures),
        prediction_routes.build_data_set_router(parts.erasures.data_sets, parts.db),
    ]


def _add_health_routes(app: FastAPI, parts: Parts) -> None:
    app.router.route_class = DeferredRoute

    @app.get("/healthz", operation_id="get_health", tags=["server"])
    def get_health() -> dict[str, str]:
        """Say that the process answers."""
        return {"status": "ok"}

    @app.get(
        "/readyz",
        operation_id="get_readiness",
        tags=["server"],
        response_model=dict[str, Any],
        responses={503: {"model": dict[str, Any]}},
    )
    def get_readiness() -> Response:
        """Say whether the server can do its work: one entry a check, 503 when one fails."""
        results = parts.health.run()
        is_ready = all(result.is_ok for result in results)
        checks = {r.name: {"ok": r.is_ok, "detail": r.detail, "required": True, "next": r.next_step} for r in results}
        body = {"status": "ready" if is_ready else "not_ready", "checks": checks}
        return JSONResponse(body, status_code=200 if is_ready else 503)

    @app.get(prometheus_sd.METRICS_PATH, operation_id="get_metrics", tags=["server"], response_class=PlainTextResponse)
    def get_metrics(caller: Annotated[Principal | None, Depends(viewer_if_named)]) -> Response:
        """Return figures in Prometheus text format; those of fleet and models only with a viewer token."""
        refresh_gauges(parts)
        return Response(parts.metrics.text(with_fleet=caller is not None), media_type=CONTENT_TYPE_LATEST)


def refresh_gauges(parts: Parts) -> None:
    """Set what is counted only when somebody asks."""
    for state, count in parts.conversion.counts().items():
        parts.metrics.jobs.labels(state).set(count)
    for state, count in parts.rollout.reader.counts().items():
        parts.metrics.rollouts.labels(state).set(count)
    parts.metrics.suspects.set(parts.fleet.suspicion.count())


class _RequestLog:
    """Gives requests their id, measures them and writes the audit trail. Plain ASGI, so that uploads stream through."""

    def __init__(self, app: ASGIApp, access: AccessService, metrics: Metrics, clock: Clock) -> None:
        self._app = app
        self._access = access
        self._metrics = metrics
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        given = request.headers.get(problems.REQUEST_ID_HEADER, "")
        if _REQUEST_ID.fullmatch(given):
            request.state.request_id = given
        request_id = problems.request_id_of(request)
        start_s = self._clock.monotonic_s()
        status = 500

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                own = [(b"x-request-id", request_id.encode()), *_limit_headers(request)]
                message["headers"] = [*message.get("headers", []), *own]
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        finally:
            operation = _operation_of(scope, request)
            self._metrics.requests.labels(operation, str(status)).inc()
            self._metrics.request_seconds.labels(operation).observe(self._clock.monotonic_s() - start_s)
            if scope["method"] not in _READING and scope["path"].startswith(API_PREFIX):
                await _audit(self._access, request, operation, status, request_id)


def _limit_headers(request: Request) -> list[tuple[bytes, bytes]]:
    allowance = getattr(request.state, "allowance", None)
    if not isinstance(allowance, Allowance):
        return []
    numbers = {"limit": allowance.limit, "remaining": allowance.remaining, "reset": allowance.reset_s}
    return [(f"ratelimit-{name}".encode(), str(value).encode()) for name, value in numbers.items()]


async def _audit(access: AccessService, request: Request, operation: str, status: int, request_id: str) -> None:
    principal: Any = getattr(request.state, "principal", None)
    try:
        path = API_PREFIX + OWN_TOKEN_PATH if is_own_token_path(request.url.path) else request.url.path
        if getattr(request.state, "is_dry_run", False):
            operation = f"{operation} (dry run)"
        if not isinstance(principal, Principal) and status >= 400:
            address = request.client.host if request.client is not None else ""
            await run_in_threadpool(access.refusals.note, Refusal(address, operation, path, status, request_id))
            return
        actor = f"{principal.name} ({principal.id})" if isinstance(principal, Principal) else ANONYMOUS
        await run_in_threadpool(access.record, actor, operation, path, status, request_id)
    except (SQLAlchemyError, EdgefleetError):
        _log.exception("audit row could not be written", extra={"request_id": request_id, "operation": operation})


def _operation_of(scope: Scope, request: Request) -> str:
    replayed = getattr(request.state, "replayed_operation", None)
    operation = replayed or getattr(scope.get("route"), "operation_id", None)
    return str(operation or "unknown_route")
