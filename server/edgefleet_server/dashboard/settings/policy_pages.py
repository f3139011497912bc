"""The page of release policies."""

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from edgefleet_server.dashboard.core.layout import Shell
from edgefleet_server.governance.release_policies.service import PolicyBook
from edgefleet_terms.release_rules import shown


def add_pages(router: APIRouter, shell: Shell, policies: PolicyBook) -> None:
    """Add the page."""

    @router.get("/settings/policies", operation_id="show_release_policies")
    def show_release_policies(request: Request) -> Response:
        """Show what releases have to have before they may be deployed, with the forms that change it."""

        def build() -> dict[str, Any]:
            return {"policies": policies.policies(), "rules": shown()}

        return shell.shown(request, "settings/policies.html", build, tab="settings")
