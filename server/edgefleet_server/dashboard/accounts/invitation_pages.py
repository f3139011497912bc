"""Choosing a password with a one-time code. The code is opened by GET and used by POST, as that of a login link."""

from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from edgefleet_protocol.errors import EdgefleetError
from edgefleet_server.access.accounts.service import AccountBook
from edgefleet_server.access.errors import BadPasswordError, LoginRefusedError
from edgefleet_server.access.model import NewSession
from edgefleet_server.dashboard.accounts.own_changes import Posted
from edgefleet_server.dashboard.core import render
from edgefleet_server.dashboard.core.forms import Form
from edgefleet_server.dashboard.core.layout import Shell
from edgefleet_server.web import problems


def add_pages(router: APIRouter, shell: Shell, accounts: AccountBook) -> None:
    """Add the page that a one-time address leads to."""

    @router.get("/invitation", operation_id="show_invitation")
    def show_invitation(code: Annotated[str, Query(max_length=128)] = "") -> Response:
        """Show the form that takes a password for a one-time code. Uses nothing up."""
        try:
            return _invitation(code, accounts.invited(code))
        except LoginRefusedError as error:
            return _invitation("", "", error)

    @router.post("/invitation", operation_id="use_invitation")
    def use_invitation(request: Request, form: Posted) -> Response:
        """Take the password of a one-time code's person, and sign this browser in."""
        code = form["code"]
        try:
            return shell.gate.sign_in_by(request, "invitation", code, "/", lambda: _chosen(accounts, form))
        except BadPasswordError as error:
            return _invitation(code, accounts.invited(code), error)
        except EdgefleetError as error:
            return _invitation("", "", error)


def _chosen(accounts: AccountBook, form: Form) -> NewSession:
    if form["password"] != form["again"]:
        raise BadPasswordError("the two passwords are not the same", next_step="type the same one twice")
    return accounts.use_invitation(form["code"], form["password"])


def _invitation(code: str, name: str, error: EdgefleetError | None = None) -> Response:
    status = 200 if error is None else problems.status_of(error.code) or 500
    answer = render.render("accounts/invitation.html", status, code=code, name=name, error=error)
    wait_s = getattr(error, "retry_after_s", None)
    if wait_s is not None:
        answer.headers["retry-after"] = str(wait_s)
    return answer
