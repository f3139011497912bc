"""How a route learns who calls it.

``authorize`` runs before every route of ``/api/v1``: it reads the bearer token, looks the route up in the policy table
(``rules.POLICY``; a route that is not in it is refused) and puts the :class:`Principal` on the request. ``require(role)``
is what a route declares, mostly by `Viewer`, `Operator`, `Publisher` or `Admin`: it returns that principal and checks its own
role once more. A test holds both equal. ``throttled`` runs after ``authorize``.

What a request touches beyond that is asked in ``authorize`` where its address says it. Where only its body does, the route declares
`ScopedOperator` or `ScopedPublisher`, and gets its caller by saying what the body names.

What asks nothing of the database is a coroutine, here and in `web`: FastAPI hands each plain function to another thread and waits for
it, and while other threads work each such turn costs a list more than the function does (ADR 0170).
This module is neither routes nor service: it is the seam that all features' routes import.
"""

from collections.abc import Awaitable, Callable
from typing import Annotated, Final, cast

from fastapi import Depends, Request
from fastapi.concurrency import run_in_threadpool

from edgefleet_server.access.errors import ForbiddenError, MissingTokenError, TooManyRequestsError
from edgefleet_server.access.grants.grant_scope import EVERYTHING, Touch
from edgefleet_server.access.grants.scoped_caller import Reach, ScopedCaller, out_of_scope
from edgefleet_server.access.model import Principal, Role
from edgefleet_server.access.request_quota import Allowance
from edgefleet_server.access.rules import role_of, touch_of
from edgefleet_server.access.service import AccessService

CALLER_KEY: Final = "edgefleet.caller"
"""Where the ASGI scope names the signed-in user of a page that calls the API inside this process; no request can set it."""


def authorize(request: Request) -> Principal:
    """Return the caller of this request. Raises MissingTokenError, BadTokenError, ExpiredTokenError, ForbiddenError."""
    known = cast("Principal | None", getattr(request.state, "authorized", None))
    if known is not None:  # by the guard of the route, before its body was parsed
        return known
    principal = cast("Principal | None", request.scope.get(CALLER_KEY)) or _by_token(request)
    request.state.principal = principal
    path = request.scope["route"].path
    needed, touch = role_of(request.method, path), touch_of(request.method, path)
    _check(principal, needed, is_scoped=touch is not None)
    if needed is not None and touch not in (None, Touch.STATED) and not principal.may(needed):
        _check_scope(request, principal, needed, cast("Touch", touch))
    request.state.authorized = principal
    return principal


def viewer_if_named(request: Request) -> Principal | None:
    """Return the caller of a route that also answers without a token, None for one without. Raises what `authorize` does."""
    if "authorization" not in request.headers:
        return None
    principal = _by_token(request)
    _check(principal, Role.VIEWER)
    return principal


def _by_token(request: Request) -> Principal:
    access = cast("AccessService", request.app.state.access)
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise MissingTokenError(
            "this request carries no operator token",
            next_step="send `Authorization: Bearer edg_…`; `edgectl login URL` stores a token",
        )
    return access.authenticate_from(request.client.host if request.client is not None else "", token.strip())


def require(role: Role) -> Callable[[Request], Awaitable[Principal]]:
    """Return a dependency that gives the caller and refuses one who lacks ``role``."""

    async def principal_of(request: Request) -> Principal:
        known = cast("Principal | None", getattr(request.state, "principal", None))
        principal = known if known is not None else await run_in_threadpool(authorize, request)
        _check(principal, role, is_scoped=touch_of(request.method, request.scope["route"].path) is not None)
        return principal

    principal_of.required_role = role  # type: ignore[attr-defined]  # read by the test that walks all routes
    return principal_of


def require_stated(role: Role) -> Callable[[Request], Awaitable[ScopedCaller]]:
    """Return a dependency like `require` for a route whose body says what it touches."""
    known = require(role)

    async def caller_of(request: Request) -> ScopedCaller:
        return ScopedCaller(await known(request), role)

    caller_of.required_role = role  # type: ignore[attr-defined]  # as in `require`
    caller_of.is_stated = True  # type: ignore[attr-defined]  # read by the test that holds it equal to the table
    return caller_of


async def throttled(request: Request) -> None:
    """Take one request of the caller's token, after `authorize`. Raises TooManyRequestsError."""
    principal = cast("Principal", request.state.principal)
    throttle = cast("AccessService", request.app.state.access).throttle
    try:
        request.state.allowance = throttle.take(principal.id)
    except TooManyRequestsError as error:
        request.state.allowance = Allowance(throttle.limit, 0, error.retry_after_s)
        raise


Viewer = Annotated[Principal, Depends(require(Role.VIEWER))]
Operator = Annotated[Principal, Depends(require(Role.OPERATOR))]
Publisher = Annotated[Principal, Depends(require(Role.PUBLISHER))]
Auditor = Annotated[Principal, Depends(require(Role.AUDITOR))]
Admin = Annotated[Principal, Depends(require(Role.ADMIN))]
ScopedOperator = Annotated[ScopedCaller, Depends(require_stated(Role.OPERATOR))]
ScopedPublisher = Annotated[ScopedCaller, Depends(require_stated(Role.PUBLISHER))]


def _check(principal: Principal, role: Role | None, *, is_scoped: bool = False) -> None:
    if role is None:
        raise ForbiddenError(
            "no role is allowed to call this route", next_step="add the route to the policy table of the access feature"
        )
    if principal.may_somewhere(role) if is_scoped else principal.may(role):
        return
    if principal.may_somewhere(role):
        raise out_of_scope(principal, role, EVERYTHING)
    raise ForbiddenError(
        f"this needs the role {role}; the token {principal.id} ({principal.name}) has: {principal.said()}",
        next_step=f"ask an admin for a token with it: `edgectl token create --name NAME --role {role}`",
    )


def _check_scope(request: Request, principal: Principal, role: Role, touch: Touch) -> None:
    """Raise ForbiddenError when no single grant has all that the address names."""
    touched = cast("Reach", request.app.state.reach).touched(touch, request.path_params)
    if touched is not None and not principal.may(role, touched):
        raise out_of_scope(principal, role, touched)
