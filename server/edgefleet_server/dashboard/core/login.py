"""Signing in and out: these pages change the session of this browser, and nothing else.

- A link is opened by GET and used by POST: a program that looks at the address for a preview does not use it up.
- A token is pasted, a password typed into a form and sent in its body, never in an address.
- The cookie is HttpOnly and SameSite=Strict; with TLS it is Secure and bound to this host by its name (`__Host-`).
- Forms are taken from our own pages only (`forms`), and the one that signs out carries the session's key as well.
- Every sign-in is in the audit trail; refused ones are counted there (`access.refusals`).
"""

import re
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Final
from urllib.parse import quote

from fastapi import Request
from fastapi.responses import RedirectResponse, Response

from edgefleet_protocol.errors import EdgefleetError
from edgefleet_server.access.errors import ForgedFormError, LoginRefusedError
from edgefleet_server.access.identities.model import ProviderButton
from edgefleet_server.access.identities.service import IdentityBook
from edgefleet_server.access.logins import SESSION_LIFE
from edgefleet_server.access.model import BrowserSession, NewSession, Principal
from edgefleet_server.access.refusals import ANONYMOUS, Refusal
from edgefleet_server.access.service import AccessService, attempt_of
from edgefleet_server.dashboard.core import render
from edgefleet_server.dashboard.core.forms import Form, check_origin
from edgefleet_server.web import problems

COOKIE: Final = "edgefleet_session"
SECURE_COOKIE: Final = f"__Host-{COOKIE}"
_OWN_PAGE: Final = re.compile(
    r"/(?:(?!login|logout|invitation|do/|static/|[^?]*\.\.)[A-Za-z0-9_][A-Za-z0-9._~@/:-]{0,200})?(?:\?[A-Za-z0-9._~@/?&=%+,:-]{0,500})?"
)
_SEE_OTHER: Final = 303
_UNAUTHORIZED: Final = 401
_FORBIDDEN: Final = 403


class Gate:
    """Finds the session of a browser; signs in and out."""

    def __init__(self, access: AccessService, *, behind_proxy: bool, identities: IdentityBook) -> None:
        """Wire the services."""
        self._access = access
        self._behind_proxy = behind_proxy
        self._identities = identities
        self.visits = 0
        """How many requests of signed-in users there were, for `overview.first_look`; a lost update does no harm."""

    @property
    def providers(self) -> list[ProviderButton]:
        """The identity providers of the sign-in page."""
        return self._identities.buttons

    def session_of(self, request: Request) -> BrowserSession | None:
        """Return the session of a request, None without a valid one."""
        cookie = request.cookies.get(self._cookie_name(request), "")
        if not cookie:
            return None
        try:
            found = self._access.logins.session_of(cookie)
        except LoginRefusedError:
            return None
        request.state.principal = found.principal
        self.visits += 1
        return found

    def sign_in(self, request: Request, form: Form) -> Response:
        """Use the name and password, the link's code or the token of a form; answer with a cookie, or with the page again and why not."""
        to, code, token = own_page(form["next"]), form["code"], form["token"].strip()
        try:
            if form["name"] and not code:
                name = form["name"].strip().replace("\0", " ")
                opens = partial(self._access.accounts.sign_in, _host_of(request), name, form["password"], form["totp"])
                return self.sign_in_by(request, "password", "", to, opens)
            if code:
                return self.sign_in_by(request, "link", code, to, lambda: self._access.logins.use_link(code))
            return self.sign_in_by(request, "token", token, to, lambda: self._with_token(token))
        except EdgefleetError as error:
            return self._refused(form, error, problems.status_of(error.code) or 500)

    def sign_in_by(
        self, request: Request, way: str, secret: str, to: str, opens: Callable[[], NewSession], *, is_form: bool = True
    ) -> Response:
        """Open a session and answer with its cookie. way: for the audit trail; secret: a code or token, "" for what counts its own tries.

        to: the page afterwards; is_form: a page of ours has to have sent it. The session that this browser had before ends.
        Raises ForgedFormError, TooManyLoginsError, what `opens` raises.
        """
        attempt = attempt_of(_host_of(request), secret) if secret else None
        try:
            if is_form:
                check_origin(request)
            if attempt is not None:
                self._access.attempts.check(attempt)
            opened = opens()
        except EdgefleetError as error:
            status = problems.status_of(error.code) or 500
            if status == _UNAUTHORIZED and attempt is not None:
                self._access.attempts.note_failure(attempt)
            if status in (_UNAUTHORIZED, _FORBIDDEN):
                self._record(request, ANONYMOUS, f"login_by_{way}", status)
            raise
        if attempt is not None:
            self._access.attempts.note_success(attempt)
        self._record(request, _actor(opened.session.principal), f"login_by_{way}", _SEE_OTHER)
        self._end_before(request)
        return self._welcome(request, opened, to)

    def record(self, request: Request, principal: Principal, action: str, status: int) -> None:
        """Append an audit row of what a signed-in person did on a page of their own account."""
        self._record(request, _actor(principal), action, status)

    def _end_before(self, request: Request) -> None:
        """End the session that a browser had: its cookie is replaced, so nobody would ever end it."""
        cookie = request.cookies.get(self._cookie_name(request), "")
        with suppress(LoginRefusedError):
            if cookie:
                self._access.logins.end_session(cookie, self._access.logins.session_of(cookie).form_key)

    def sign_out(self, request: Request, form: Form) -> Response:
        """End the session of a form; without a session there is nothing to do. Raises ForgedFormError."""
        cookie = request.cookies.get(self._cookie_name(request), "")
        answer = redirect("/login")
        try:
            check_origin(request)
            ended = self._access.logins.end_session(cookie, form["form_key"])
        except LoginRefusedError:
            return answer
        except ForgedFormError:
            self._record(request, ANONYMOUS, "logout", 403)
            raise
        self._record(request, _actor(ended.principal), "logout", _SEE_OTHER)
        secure = self.is_secure(request)
        answer.delete_cookie(self._cookie_name(request), httponly=True, samesite="strict", secure=secure)
        return answer

    def _with_token(self, token: str) -> NewSession:
        return self._access.logins.open_session(self._access.authenticate(token))

    def _welcome(self, request: Request, opened: NewSession, to: str) -> Response:
        answer = redirect(to)
        answer.set_cookie(
            self._cookie_name(request),
            opened.cookie,
            max_age=int(SESSION_LIFE.total_seconds()),
            httponly=True,
            samesite="strict",
            secure=self.is_secure(request),
        )
        return answer

    def _refused(self, form: Form, error: EdgefleetError, status: int) -> Response:
        answer = render.render(
            "login.html",
            status,
            code="",
            to=own_page(form["next"]),
            error=error,
            session=None,
            name=form["name"],
            providers=self.providers,
        )
        wait_s = getattr(error, "retry_after_s", None)
        if wait_s is not None:
            answer.headers["retry-after"] = str(wait_s)
        return answer

    def _record(self, request: Request, actor: str, action: str, status: int) -> None:
        path, request_id = request.url.path, problems.request_id_of(request)
        if actor == ANONYMOUS:
            self._access.refusals.note(Refusal(_host_of(request), action, path, status, request_id))
        else:
            self._access.record(actor, action, path, status, request_id)

    def is_secure(self, request: Request) -> bool:
        """Say whether the browser speaks TLS, to us or to the proxy before us."""
        if request.url.scheme == "https":
            return True
        return self._behind_proxy and request.headers.get("x-forwarded-proto", "https") == "https"

    def _cookie_name(self, request: Request) -> str:
        return SECURE_COOKIE if self.is_secure(request) else COOKIE


def _host_of(request: Request) -> str:
    return request.client.host if request.client is not None else ""


def to_login(request: Request) -> Response:
    """Return a redirect to the login page, which leads back to the page that was asked for."""
    wanted = own_page(address_of(request))
    return redirect("/login" if wanted == "/" else f"/login?next={quote(wanted, safe='/')}")


def address_of(request: Request) -> str:
    """Return path and query of a request."""
    query = request.url.query
    return f"{request.url.path}?{query}" if query else request.url.path


def own_page(path: str) -> str:
    """Return a path of one of our pages, `/` for anything else: a login never leads to another site."""
    return path if _OWN_PAGE.fullmatch(path) else "/"


def redirect(path: str) -> Response:
    """Return a redirect to one of our pages, which the browser fetches by GET."""
    return RedirectResponse(path, _SEE_OTHER, headers=dict(render.HEADERS))


def _actor(principal: Principal) -> str:
    return f"{principal.name} ({principal.id})"
