"""The page of trusted pipelines."""

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from edgefleet_server.access.model import Role
from edgefleet_server.access.trusted_pipelines.service import PipelineBook
from edgefleet_server.dashboard.core.layout import Shell


def add_pages(router: APIRouter, shell: Shell, pipelines: PipelineBook) -> None:
    """Add the page."""

    @router.get("/settings/pipelines", operation_id="show_trusted_pipelines")
    def show_trusted_pipelines(request: Request) -> Response:
        """Show the pipelines that sign in without a stored secret, with the forms that change them."""

        def build() -> dict[str, Any]:
            return {"pipelines": pipelines.pipelines(), "audience": pipelines.audience}

        return shell.shown(request, "settings/pipelines.html", build, tab="settings", role=Role.ADMIN)
