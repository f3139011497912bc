"""Turning codes of an app on, with their QR picture and recovery codes, and off."""

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from edgefleet_server.access.accounts.service import AccountBook
from edgefleet_server.access.errors import WrongCodeError
from edgefleet_server.access.model import BrowserSession
from edgefleet_server.dashboard.accounts.own_changes import Posted, changed
from edgefleet_server.dashboard.core.layout import Shell


def add_pages(router: APIRouter, shell: Shell, accounts: AccountBook) -> None:
    """Add what the forms of codes are sent to."""

    def page(request: Request, session: BrowserSession, **values: Any) -> Response:
        shown: dict[str, Any] = {"setup": None, "recovery": [], "error": None, "is_still": True, **values}
        status = 200 if shown["error"] is None else 422
        return shell.page(request, session, "accounts/codes.html", tab="settings", status=status, **shown)

    @router.post("/account/codes", operation_id="begin_codes")
    def begin_codes(request: Request, form: Posted) -> Response:
        """Show the secret for an app, and the form that takes the first code."""

        def change(session: BrowserSession) -> Response:
            return page(request, session, setup=accounts.begin_codes(session, form["current"]))

        return changed(request, shell, form, change)

    @router.post("/account/codes/confirm", operation_id="confirm_codes")
    def confirm_codes(request: Request, form: Posted) -> Response:
        """Put codes into force and show the recovery codes, once."""

        def change(session: BrowserSession) -> Response:
            own = session.principal
            try:
                return page(request, session, recovery=accounts.confirm_codes(session, form["totp"]))
            except WrongCodeError as error:
                return page(request, session, setup=accounts.codes.pending(own.person, own.name), error=error)

        return changed(request, shell, form, change)

    @router.post("/account/codes/off", operation_id="end_codes")
    def end_codes(request: Request, form: Posted) -> Response:
        """Turn codes off."""

        def change(session: BrowserSession) -> str:
            accounts.end_codes(session, form["current"])
            return "Codes are off. Your password alone signs you in."

        return changed(request, shell, form, change)
