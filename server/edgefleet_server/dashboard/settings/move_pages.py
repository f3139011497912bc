"""The page of the server's place, and of moves to another one."""

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from edgefleet_server.dashboard.core.layout import Shell
from edgefleet_server.fleet.moves.service import MoveBook


def add_pages(router: APIRouter, shell: Shell, moves: MoveBook) -> None:
    """Add the page."""

    @router.get("/settings/place", operation_id="show_server_move")
    def show_server_move(request: Request) -> Response:
        """Show the newest move of the server and who has followed, with the forms of its next steps."""

        def build() -> dict[str, Any]:
            return {"move": next(iter(moves.moves()), None)}

        return shell.shown(request, "settings/place.html", build, tab="settings")
