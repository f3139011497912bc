"""Choosing a password with a one-time code, and what people change of their own account. Passwords are in these forms only.

The code is opened by GET and used by POST, as that of a login link. Forms of the own account carry the key of the session.
"""

from collections.abc import Callable
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response

from edgefleet_protocol.errors import EdgefleetError
from edgefleet_server.access.accounts.service import AccountBook
from edgefleet_server.access.errors import BadPasswordError, LoginRefusedError, NoAccountError, WrongCodeError
from edgefleet_server.access.model import BrowserSession
from edgefleet_server.dashboard.actions.routes import said
from edgefleet_server.dashboard.core import render
from edgefleet_server.dashboard.core.forms import Form, check_key, check_origin, form_of
from edgefleet_server.dashboard.core.layout import Shell
from edgefleet_server.dashboard.core.login import to_login
from edgefleet_server.dashboard.operations.reversal import sealed
from edgefleet_server.web import problems

OWN_PAGE: Final = "/settings/account"
Posted = Annotated[Form, Depends(form_of)]
Change = Callable[[BrowserSession], str | Response]
"""Changes the account of a session; returns the sentence of what was done, or a page."""


def add_pages(router: APIRouter, shell: Shell, accounts: AccountBook) -> None:
    """Add the pages."""
    _add_invitation(router, shell, accounts)
    _add_own_account(router, shell, accounts)
    _add_codes(router, shell, accounts)


def _add_invitation(router: APIRouter, shell: Shell, accounts: AccountBook) -> None:
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


def _chosen(accounts: AccountBook, form: Form) -> Any:
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


def _add_own_account(router: APIRouter, shell: Shell, accounts: AccountBook) -> None:
    @router.get(OWN_PAGE, operation_id="show_account")
    def show_account(request: Request) -> Response:
        """Show how the signed-in person signs in, and the forms that change it."""
        session = shell.gate.session_of(request)

        def build() -> dict[str, Any]:
            try:
                since = None if session is None else accounts.password_since(session)
            except NoAccountError:
                since = None
            codes = None if session is None else accounts.codes.state(session.principal.person)
            return {"since": since, "codes": codes, "is_still": True}

        return shell.shown(request, "accounts/own.html", build, tab="settings")

    @router.post("/account/password", operation_id="change_password")
    def change_password(request: Request, form: Posted) -> Response:
        """Change the password of the signed-in person; other browsers are signed out."""

        def change(session: BrowserSession) -> str:
            if form["password"] != form["again"]:
                raise BadPasswordError("the two new passwords are not the same", next_step="type the same one twice")
            accounts.change_password(session, form["current"], form["password"])
            return "Password changed. Other browsers that you signed in with it are signed out."

        return _changed(request, shell, form, change)

    @router.post("/account/sign-out-others", operation_id="sign_out_others")
    def sign_out_others(request: Request, form: Posted) -> Response:
        """Sign out all other browsers of the signed-in person."""

        def change(session: BrowserSession) -> str:
            count = accounts.end_other_sessions(session)
            return f"{count} other {'browser' if count == 1 else 'browsers'} signed out."

        return _changed(request, shell, form, change)


def _add_codes(router: APIRouter, shell: Shell, accounts: AccountBook) -> None:
    def page(request: Request, session: BrowserSession, **values: Any) -> Response:
        shown: dict[str, Any] = {"setup": None, "recovery": [], "error": None, "is_still": True, **values}
        status = 200 if shown["error"] is None else 422
        return shell.page(request, session, "accounts/codes.html", tab="settings", status=status, **shown)

    @router.post("/account/codes", operation_id="begin_codes")
    def begin_codes(request: Request, form: Posted) -> Response:
        """Show the secret for an app, and the form that takes the first code."""

        def change(session: BrowserSession) -> Response:
            return page(request, session, setup=accounts.begin_codes(session, form["current"]))

        return _changed(request, shell, form, change)

    @router.post("/account/codes/confirm", operation_id="confirm_codes")
    def confirm_codes(request: Request, form: Posted) -> Response:
        """Put codes into force and show the recovery codes, once."""

        def change(session: BrowserSession) -> Response:
            own = session.principal
            try:
                return page(request, session, recovery=accounts.confirm_codes(session, form["totp"]))
            except WrongCodeError as error:
                return page(request, session, setup=accounts.codes.pending(own.person, own.name), error=error)

        return _changed(request, shell, form, change)

    @router.post("/account/codes/off", operation_id="end_codes")
    def end_codes(request: Request, form: Posted) -> Response:
        """Turn codes off."""

        def change(session: BrowserSession) -> str:
            accounts.end_codes(session, form["current"])
            return "Codes are off. Your password alone signs you in."

        return _changed(request, shell, form, change)


def _changed(request: Request, shell: Shell, form: Form, change: Change) -> Response:
    """Change the account of a form's session and go back to its page. Every change and refusal is in the audit trail."""
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
