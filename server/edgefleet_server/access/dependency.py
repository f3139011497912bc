"""How a route learns who calls it.

``authorize`` runs before every route of ``/api/v1``: it reads the bearer token, looks the route up in the policy table
(``rules.POLICY``; a route that is not in it is refused) and puts the :class:`Principal` on the request. ``require(role)``
is what a route declares, mostly by `Viewer`, `Operator`, `Publisher` or `Admin`: it returns that principal and checks its own
role once more. A test holds both equal. ``throttled`` runs after ``authorize``.
This module is neither routes nor service: it is the seam that all features' routes import.
"""

from collections.abc import Callable
from typing import Annotated, Final, cast

from fastapi import Depends, Request

from edgefleet_server.access.errors import ForbiddenError, MissingTokenError, TooManyRequestsError
from edgefleet_server.access.model import Principal, Role
from edgefleet_server.access.request_quota import Allowance
from edgefleet_server.access.rules import role_of
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
    needed = role_of(request.method, request.scope["route"].path)
    _check(principal, needed)
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


def require(role: Role) -> Callable[[Request], Principal]:
    """Return a dependency that gives the caller and refuses one who lacks ``role``."""

    def principal_of(request: Request) -> Principal:
        principal = cast("Principal | None", getattr(request.state, "principal", None)) or authorize(request)
        _check(principal, role)
        return principal

    principal_of.required_role = role  # type: ignore[attr-defined]  # read by the test that walks all routes
    return principal_of


def throttled(request: Request) -> None:
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


def _check(principal: Principal, role: Role | None) -> None:
    if role is None:
        raise ForbiddenError(
            "no role is allowed to call this route", next_step="add the route to the policy table of the access feature"
        )
    if not principal.may(role):
        have = ", ".join(sorted(principal.roles)) or "none"
        raise ForbiddenError(
            f"this needs the role {role}; the token {principal.id} ({principal.name}) has: {have}",
            next_step=f"ask an admin for a token with it: `edgectl token create --name NAME --role {role}`",
        )
