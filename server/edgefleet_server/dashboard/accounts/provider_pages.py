"""Signing in by an identity provider: out to the issuer, and back with its answer.

The way out is a form of our own page. Its answer is a page that leads on by itself, since the rule `form-action` of our pages would stop a
redirect; so is the answer to the way in, since a browser sends our SameSite=Strict cookie only where a page of ours led.
The browser's secret is in a cookie of its own for ten minutes, SameSite=Lax: the issuer leads back from another site.
"""

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from edgefleet_protocol.errors import EdgefleetError
from edgefleet_server.access.identities.service import PATH, SIGN_IN_LIFE, IdentityBook
from edgefleet_server.access.model import NewSession
from edgefleet_server.dashboard.accounts.own_changes import Posted
from edgefleet_server.dashboard.core import render
from edgefleet_server.dashboard.core.forms import check_origin
from edgefleet_server.dashboard.core.layout import Shell
from edgefleet_server.dashboard.core.login import Gate, own_page
from edgefleet_server.web import problems

COOKIE = "edgefleet_sign_in"
SECURE_COOKIE = f"__Host-{COOKIE}"
_NO_STORE = {"cache-control": "no-store"}
_UNAUTHORIZED = 401


def add_pages(router: APIRouter, shell: Shell, identities: IdentityBook) -> None:
    """Add what the buttons of the sign-in page are sent to, and where issuers lead back to."""
    gate = shell.gate

    @router.post(PATH + "/{provider}", operation_id="begin_sign_in")
    def begin_sign_in(request: Request, provider: str, form: Posted) -> Response:
        """Lead the browser to an identity provider."""
        to = own_page(form["next"])
        try:
            check_origin(request)
            begun = identities.begin(request.client.host if request.client is not None else "", provider, to)
        except EdgefleetError as error:
            return _refused(gate, error)
        answer = render.render("accounts/onward.html", url=begun.url, where=begun.title)
        answer.set_cookie(
            _cookie_name(gate, request),
            begun.cookie,
            max_age=int(SIGN_IN_LIFE.total_seconds()),
            httponly=True,
            samesite="lax",
            secure=gate.is_secure(request),
        )
        return answer

    @router.get(PATH + "/{provider}/callback", operation_id="end_sign_in")
    def end_sign_in(request: Request, provider: str) -> Response:
        """Take the answer of an identity provider, once, and sign this browser in."""
        cookie, page = request.cookies.get(_cookie_name(gate, request), ""), "/"

        def opens() -> NewSession:
            nonlocal page
            opened, page = identities.finish(provider, cookie, request.url.query)
            return opened

        try:
            signed_in = gate.sign_in_by(request, "identity_provider", "", "/", opens, is_form=False)
        except EdgefleetError as error:
            answer = _refused(gate, error)
        else:
            answer = render.render("accounts/onward.html", url=own_page(page), where="")
            answer.headers["set-cookie"] = signed_in.headers["set-cookie"]
        secure = gate.is_secure(request)
        answer.delete_cookie(_cookie_name(gate, request), httponly=True, samesite="lax", secure=secure)
        return answer

    @router.post(PATH + "/{provider}/logout", operation_id="sign_out_by_issuer")
    def sign_out_by_issuer(request: Request, provider: str, form: Posted) -> Response:
        """Take a logout token, which the issuer itself sends: no browser, no session, no page."""
        address = request.client.host if request.client is not None else ""
        try:
            identities.sign_out(address, provider, form["logout_token"])
        except EdgefleetError as error:
            status = problems.status_of(error.code) or 500
            status = 400 if status == _UNAUTHORIZED else status
            return JSONResponse(
                {"error": "invalid_request", "error_description": error.message}, status, dict(_NO_STORE)
            )
        return Response(status_code=200, headers=dict(_NO_STORE))


def _refused(gate: Gate, error: EdgefleetError) -> Response:
    status = problems.status_of(error.code) or 500
    answer = render.render(
        "login.html", status, code="", to="/", error=error, session=None, name="", providers=gate.providers
    )
    wait_s = getattr(error, "retry_after_s", None)
    if wait_s is not None:
        answer.headers["retry-after"] = str(wait_s)
    return answer


def _cookie_name(gate: Gate, request: Request) -> str:
    return SECURE_COOKIE if gate.is_secure(request) else COOKIE
