"""A form as commands while it is being filled in: the lines under it, as they are now. Nothing is done.

What was typed comes by POST, so that no log of addresses has it.
"""

from typing import Final

from fastapi import APIRouter, Request
from fastapi.responses import Response

from edgefleet_protocol.clock import Clock
from edgefleet_server.dashboard.actions.routes import Action
from edgefleet_server.dashboard.core import render
from edgefleet_server.dashboard.core.forms import check_key, check_origin
from edgefleet_server.dashboard.core.layout import Shell
from edgefleet_server.dashboard.core.login import to_login
from edgefleet_server.dashboard.operations.command_preview import command_lines

_MOST_NEEDS: Final = 100


def add_pages(router: APIRouter, shell: Shell, clock: Clock) -> None:
    """Add the lines."""

    @router.post("/command/{operation_id}", operation_id="show_command")
    def show_command(request: Request, operation_id: str, form: Action) -> Response:
        """Show the lines of a form. Its field `needs` names those that have to be filled in and are not."""
        session = shell.gate.session_of(request)
        if session is None:
            return to_login(request)
        check_origin(request)
        check_key(session, form)
        operations = shell.operations(request)
        needs = form.fields.get("needs", ())[:_MOST_NEEDS]
        lines = command_lines(operations, operation_id, form.fields, needs, clock.now(), form["asks"])
        return render.render("command_lines.html", lines=lines)
