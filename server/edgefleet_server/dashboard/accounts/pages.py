"""The page of the own account, and what it changes. Passwords are in these forms only."""

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from edgefleet_server.access.accounts.service import AccountBook
from edgefleet_server.access.errors import BadPasswordError, NoAccountError
from edgefleet_server.access.identities.service import IdentityBook
from edgefleet_server.access.model import BrowserSession
from edgefleet_server.access.people.own_tokens import OwnTokens
from edgefleet_server.dashboard.accounts import code_pages, invitation_pages, provider_pages
from edgefleet_server.dashboard.accounts.own_changes import OWN_PAGE, Posted, changed
from edgefleet_server.dashboard.core.layout import Shell


def add_pages(
    router: APIRouter, shell: Shell, accounts: AccountBook, own_tokens: OwnTokens, identities: IdentityBook
) -> None:
    """Add the pages."""
    provider_pages.add_pages(router, shell, identities)
    invitation_pages.add_pages(router, shell, accounts)
    _add_own_account(router, shell, accounts, own_tokens)
    code_pages.add_pages(router, shell, accounts)


def _add_own_account(router: APIRouter, shell: Shell, accounts: AccountBook, own_tokens: OwnTokens) -> None:
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
            tokens = [] if session is None else own_tokens.tokens(session.principal)
            is_maker = session is not None and own_tokens.is_maker(session.principal)
            return {"since": since, "codes": codes, "tokens": tokens, "is_maker": is_maker, "is_still": True}

        return shell.shown(request, "accounts/own.html", build, tab="settings")

    @router.post("/account/password", operation_id="change_password")
    def change_password(request: Request, form: Posted) -> Response:
        """Change the password of the signed-in person; other browsers are signed out."""

        def change(session: BrowserSession) -> str:
            if form["password"] != form["again"]:
                raise BadPasswordError("the two new passwords are not the same", next_step="type the same one twice")
            accounts.change_password(session, form["current"], form["password"])
            return "Password changed. Other browsers that you signed in with it are signed out."

        return changed(request, shell, form, change)

    @router.post("/account/sign-out-others", operation_id="sign_out_others")
    def sign_out_others(request: Request, form: Posted) -> Response:
        """Sign out all other browsers of the signed-in person."""

        def change(session: BrowserSession) -> str:
            count = accounts.end_other_sessions(session)
            return f"{count} other {'browser' if count == 1 else 'browsers'} signed out."

        return changed(request, shell, form, change)
