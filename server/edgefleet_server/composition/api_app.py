"""The API app: routes of all features under `/api/v1`, health and figures beside them.

One middleware gives every request an id, times it, counts it, and writes an audit row for every request that could change
something, whatever the answer was. Authorisation runs before every route of `/api/v1` (`access/dependency.py`).
"""

import logging
import re
from importlib.metadata import version
from typing import Any

from fastapi import Depends, FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.middleware.gzip import GZipMiddleware
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST
from sqlalchemy.exc import SQLAlchemyError
from starlette.middleware.gzip import DEFAULT_EXCLUDED_CONTENT_TYPES
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edgefleet_protocol.errors import EdgefleetError
from edgefleet_server.access import routes as access_routes
from edgefleet_server.access.allowed_methods import AllowedMethods
from edgefleet_server.access.dependency import authorize, throttled
from edgefleet_server.access.idempotency.middleware import Idempotency
from edgefleet_server.access.model import Principal
from edgefleet_server.access.request_quota import Allowance
from edgefleet_server.access.rules import API_PREFIX, OWN_TOKEN_PATH, is_own_token_path
from edgefleet_server.alerting import routes as alerting_routes
from edgefleet_server.composition import prometheus_sd
from edgefleet_server.composition.container import Parts
from edgefleet_server.composition.openapi import ApiApp
from edgefleet_server.conversion import routes as conversion_routes
from edgefleet_server.dashboard import routes as dashboard_routes
from edgefleet_server.dashboard.registry.publish_page import UPLOADS
from edgefleet_server.fleet import routes as fleet_routes
from edgefleet_server.registry import routes as registry_routes
from edgefleet_server.rollout import routes as rollout_routes
from edgefleet_server.search import routes as search_routes
from edgefleet_server.signing import routes as signing_routes
from edgefleet_server.telemetry import routes as telemetry_routes
from edgefleet_server.web import problems
from edgefleet_server.web.body_limit import API_BODY_BYTES, BodyLimit
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
        redoc_url=None,
    )
    app.state.parts = parts
    problems.install(app)
    for build_router in (
        access_routes.build_router,
        registry_routes.build_router,
        signing_routes.build_router,
        conversion_routes.build_router,
        fleet_routes.build_router,
        telemetry_routes.build_router,
        rollout_routes.build_router,
        webhook_routes.build_router,
        alerting_routes.build_router,
        search_routes.build_router,
        prometheus_sd.build_router,
    ):
        app.include_router(
            build_router(parts), prefix=API_PREFIX, dependencies=[Depends(authorize), Depends(throttled)]
        )
    app.include_router(alerting_routes.build_hook_router(parts), prefix=API_PREFIX)  # has a token of its own
    app.include_router(dashboard_routes.build_router(parts))
    _add_health_routes(app, parts)
    app.add_middleware(Idempotency, parts=parts)
    app.add_middleware(AllowedMethods)
    app.add_middleware(
        BodyLimit, limit_bytes=API_BODY_BYTES, unlimited=[("PUT", f"{API_PREFIX}/blobs/"), ("PUT", UPLOADS)]
    )
    app.add_middleware(
        GZipMiddleware, minimum_size=1024, compresslevel=5, exclude_content_types=_NEVER_SMALLER
    )  # streams are not held back, blobs keep their length
    app.add_middleware(_RequestLog, parts=parts)
    return app


def _add_health_routes(app: FastAPI, parts: Parts) -> None:
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
    def get_metrics() -> Response:
        """Return figures in Prometheus text format."""
        for state, count in parts.conversion.counts().items():
            parts.metrics.jobs.labels(state).set(count)
        for state, count in parts.rollout.reader.counts().items():
            parts.metrics.rollouts.labels(state).set(count)
        return Response(parts.metrics.text(), media_type=CONTENT_TYPE_LATEST)


class _RequestLog:
    """Gives requests their id, measures them and writes the audit trail. Plain ASGI, so that uploads stream through."""

    def __init__(self, app: ASGIApp, parts: Parts) -> None:
        self._app = app
        self._parts = parts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        given = request.headers.get(problems.REQUEST_ID_HEADER, "")
        if _REQUEST_ID.fullmatch(given):
            request.state.request_id = given
        request_id = problems.request_id_of(request)
        start_s = self._parts.clock.monotonic_s()
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
            self._parts.metrics.requests.labels(operation, str(status)).inc()
            self._parts.metrics.request_seconds.labels(operation).observe(self._parts.clock.monotonic_s() - start_s)
            if scope["method"] not in _READING and scope["path"].startswith(API_PREFIX):
                await _audit(self._parts, request, operation, status, request_id)


def _limit_headers(request: Request) -> list[tuple[bytes, bytes]]:
    allowance = getattr(request.state, "allowance", None)
    if not isinstance(allowance, Allowance):
        return []
    told = {"limit": allowance.limit, "remaining": allowance.remaining, "reset": allowance.reset_s}
    return [(f"ratelimit-{name}".encode(), str(value).encode()) for name, value in told.items()]


async def _audit(parts: Parts, request: Request, operation: str, status: int, request_id: str) -> None:
    principal: Any = getattr(request.state, "principal", None)
    actor = f"{principal.name} ({principal.id})" if isinstance(principal, Principal) else "unknown"
    try:
        path = API_PREFIX + OWN_TOKEN_PATH if is_own_token_path(request.url.path) else request.url.path
        if getattr(request.state, "is_dry_run", False):
            operation = f"{operation} (dry run)"
        await run_in_threadpool(parts.access.record, actor, operation, path, status, request_id)
    except (SQLAlchemyError, EdgefleetError):
        _log.exception("audit row could not be written", extra={"request_id": request_id, "operation": operation})


def _operation_of(scope: Scope, request: Request) -> str:
    replayed = getattr(request.state, "replayed_operation", None)
    operation = replayed or getattr(scope.get("route"), "operation_id", None)
    return str(operation or "unknown_route")
