"""The page of deployment protection rules."""

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from edgefleet_server.dashboard.core.layout import Shell
from edgefleet_server.fleet.protection.service import ProtectionBook


def add_pages(router: APIRouter, shell: Shell, protection: ProtectionBook) -> None:
    """Add the page."""

    @router.get("/settings/protection", operation_id="show_protection_rules")
    def show_protection_rules(request: Request) -> Response:
        """Show protection rules and who has set them aside, with the forms that change them."""

        def build() -> dict[str, Any]:
            return {"rules": protection.rules()}

        return shell.shown(request, "settings/protection.html", build, tab="settings")
