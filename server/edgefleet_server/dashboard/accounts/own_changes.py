"""Changing the own account by a form of a page: the form is ours and of this session, and each change and refusal is in the audit trail."""

from collections.abc import Callable
from typing import Annotated, Final

from fastapi import Depends, Request
from fastapi.responses import Response

from edgefleet_protocol.errors import EdgefleetError
from edgefleet_server.access.model import BrowserSession
from edgefleet_server.dashboard.actions.routes import said
from edgefleet_server.dashboard.core.forms import Form, check_key, check_origin, form_of
from edgefleet_server.dashboard.core.layout import Shell
from edgefleet_server.dashboard.core.login import to_login
from edgefleet_server.dashboard.operations.reversal import sealed
from edgefleet_server.web import problems

OWN_PAGE: Final = "/settings/account"
Posted = Annotated[Form, Depends(form_of)]
Change = Callable[[BrowserSession], str | Response]
"""Changes the account of a session; returns the sentence of what was done, or a page."""


def changed(request: Request, shell: Shell, form: Form, change: Change) -> Response:
    """Change the account of a form's session and go back to its page. Raises ForgedFormError, what `change` raises."""
    session = shell.gate.session_of(request)
    if session is None:
        return to_login(request)
    check_origin(request)
    check_key(session, form)
    action = request.url.path.removeprefix("/account/").replace("-", "_").replace("/", "_")
    try:
        done = change(session)
    except EdgefleetError as error:
        shell.gate.record(request, session.principal, action, problems.status_of(error.code) or 500)
        raise
    shell.gate.record(request, session.principal, action, 303)
    if isinstance(done, Response):
        return done
    return said(OWN_PAGE, sealed(done, None, session.form_key), secure=shell.gate.is_secure(request))
