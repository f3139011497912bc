"""The page of the device CA, and of its rotation."""

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from edgefleet_server.dashboard.core.layout import Shell
from edgefleet_server.fleet.ca_rotation.service import CaRotationBook


def add_pages(router: APIRouter, shell: Shell, rotations: CaRotationBook) -> None:
    """Add the page."""

    @router.get("/settings/device-ca", operation_id="show_ca_rotation")
    def show_ca_rotation(request: Request) -> Response:
        """Show the device CA and its newest rotation, who has not followed, and the forms of its next steps."""

        def build() -> dict[str, Any]:
            return {"rotation": next(iter(rotations.rotations()), None), "cas": rotations.cas()}

        return shell.shown(request, "settings/device_ca.html", build, tab="settings")
