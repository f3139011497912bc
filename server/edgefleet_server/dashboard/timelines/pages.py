"""The page of the fleet's figures, the file of any figures, and the page that says why latency rose."""

from dataclasses import replace
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from edgefleet_protocol.clock import Clock
from edgefleet_protocol.ids import parse_model_name
from edgefleet_server.access.model import Role
from edgefleet_server.dashboard.core import render
from edgefleet_server.dashboard.core.layout import Shell
from edgefleet_server.dashboard.core.login import to_login
from edgefleet_server.dashboard.timelines.explanations import Explanations
from edgefleet_server.dashboard.timelines.time_range import AskedQuery
from edgefleet_server.dashboard.timelines.views import TimelineViews
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
Name = Annotated[str, Query(max_length=63)]
ByQuery = Annotated[LinesBy | None, Query()]


def add_pages(router: APIRouter, shell: Shell, views: TimelineViews, explanations: Explanations, clock: Clock) -> None:
    """Add the pages."""

    @router.get("/fleet", operation_id="show_fleet_metrics")
    def show_fleet_metrics(request: Request, asked: AskedQuery, by: ByQuery = None) -> Response:
        """Show figures of all devices over time."""
        build = lambda: {"timeline": views.view(Scope.FLEET, "", asked, by)}  # noqa: E731
        return shell.shown(request, "fleet/metrics.html", build, tab="figures")

    @router.get("/metrics-file", operation_id="download_metrics")
    def download_metrics(
        request: Request, scope: Scope, asked: AskedQuery, name: Name = "", by: ByQuery = None
    ) -> Response:
        """Return what charts show as CSV."""
        session = shell.gate.session_of(request)
        if session is None or not session.principal.may(Role.VIEWER):
            return to_login(request)
        name = "" if scope is Scope.FLEET else name
        found = views.read(scope, name, asked, by)
        named = f'attachment; filename="{name or scope.value}-metrics-{clock.now():%Y-%m-%d}.csv"'
        headers = {**render.HEADERS, "content-disposition": named}
        return Response("".join(csv_lines(found)), media_type="text/csv", headers=headers)

    @router.get("/models/{name}/latency", operation_id="show_latency_explanation")
    def show_latency(request: Request, name: str, asked: AskedQuery, device: Name = "") -> Response:
        """Show why a model's latency rose: what changed with it, the most likely cause first."""

        def build() -> dict[str, Any]:
            model = parse_model_name(name)
            timeline = views.view(*((Scope.DEVICE, device) if device else (Scope.MODEL, model)), asked)
            page = explanations.of(model, timeline.since, timeline.until, device)
            kept = replace(timeline.range, other=(("device", device),))
            return {"page": page, "timeline": replace(timeline, range=kept), "tones": TONES}

        return shell.shown(request, "registry/latency.html", build, tab="models")
