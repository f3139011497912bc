"""The page of the fleet's figures, the file of any figures, and the page that says why latency rose."""

from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from edgefleet_protocol.clock import Clock
from edgefleet_protocol.ids import parse_model_name
from edgefleet_server.access.model import Role
from edgefleet_server.dashboard.core import render
from edgefleet_server.dashboard.core.layout import Shell
from edgefleet_server.dashboard.core.login import to_login
from edgefleet_server.dashboard.timelines.charts import SPANS
from edgefleet_server.dashboard.timelines.views import TimelineViews
from edgefleet_server.telemetry.latency.service import LatencyExplainer
from edgefleet_server.telemetry.timelines.csv_table import csv_lines
from edgefleet_server.telemetry.timelines.model import LinesBy, Scope

TONES: Final = {
    "likely": "bad",
    "possible": "warn",
    "unlikely": "plain",
    "unchanged": "plain",
    "unknown": "plain",
    "ruled_out": "plain",
}
Span = Annotated[str, Query(max_length=8)]
Name = Annotated[str, Query(max_length=63)]
ByQuery = Annotated[LinesBy | None, Query()]


def add_pages(router: APIRouter, shell: Shell, views: TimelineViews, explainer: LatencyExplainer, clock: Clock) -> None:
    """Add the pages."""

    @router.get("/fleet", operation_id="show_fleet_metrics")
    def show_fleet_metrics(request: Request, span: Span = "", by: ByQuery = None) -> Response:
        """Show figures of all devices over time."""
        build = lambda: {"timeline": views.view(Scope.FLEET, "", span, by)}  # noqa: E731
        return shell.shown(request, "fleet/metrics.html", build, tab="figures")

    @router.get("/metrics-file", operation_id="download_metrics")
    def download_metrics(
        request: Request, scope: Scope, name: Name = "", span: Span = "", by: ByQuery = None
    ) -> Response:
        """Return what charts show as CSV."""
        session = shell.gate.session_of(request)
        if session is None or not session.principal.may(Role.VIEWER):
            return to_login(request)
        name = "" if scope is Scope.FLEET else name
        found = views.read(scope, name, span, by)
        named = f'attachment; filename="{name or scope.value}-metrics-{clock.now():%Y-%m-%d}.csv"'
        headers = {**render.HEADERS, "content-disposition": named}
        return Response("".join(csv_lines(found)), media_type="text/csv", headers=headers)

    @router.get("/models/{name}/latency", operation_id="show_latency_explanation")
    def show_latency(request: Request, name: str, device: Name = "", span: Span = "") -> Response:
        """Show why a model's latency rose: what changed with it, the most likely cause first."""

        def build() -> dict[str, Any]:
            now, model = clock.now(), parse_model_name(name)
            timeline = views.view(*((Scope.DEVICE, device) if device else (Scope.MODEL, model)), span)
            page = explainer.explain(model, now - SPANS[timeline.span][0], now, device)
            return {"page": page, "timeline": timeline, "span": timeline.span, "tones": TONES}

        return shell.shown(request, "registry/latency.html", build, tab="models")
