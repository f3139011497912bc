"""The page of drift over the fleet."""

from typing import Any, Final

from fastapi import APIRouter, Request
from fastapi.responses import Response

from edgefleet_server.dashboard.core.layout import Shell
from edgefleet_server.dashboard.drift.fleet_drift import FleetDriftReader

TAB: Final = "drift"


def add_pages(router: APIRouter, shell: Shell, reader: FleetDriftReader) -> None:
    """Add the page."""

    @router.get("/drift", operation_id="show_drift")
    def show_drift(request: Request) -> Response:
        """Show which models, signals and sites drift, the worst first."""

        def build() -> dict[str, Any]:
            return {"grid": reader.read()}

        return shell.shown(request, "drift/fleet.html", build, tab=TAB)
