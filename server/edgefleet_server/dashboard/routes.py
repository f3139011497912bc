"""The pages: addresses, who may see them, and what a refusal looks like. HTML only, so none of it is in the API's schema."""

from collections.abc import Callable, Coroutine, Sequence
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException

from edgefleet_protocol.errors import EdgefleetError
from edgefleet_server.dashboard.actions.routes import RefusedError, add_action_route
from edgefleet_server.dashboard.core import render
from edgefleet_server.dashboard.core.forms import Form, form_of
from edgefleet_server.dashboard.core.layout import Shell
from edgefleet_server.dashboard.core.login import Gate, own_page
from edgefleet_server.dashboard.live.page_stream import add_live_route
from edgefleet_server.db.database import DatabaseUnavailableError
from edgefleet_server.web import problems
from edgefleet_server.web.deferred_route import DeferredRoute

_API_PAGE_POLICY: Final = f"{render.HEADERS['content-security-policy']}; img-src 'self' data:"
"""Arrows and other small pictures lie in the style sheet of Swagger UI."""
Area = Callable[[APIRouter, Shell], None]
"""Adds the pages of an area."""
Posted = Annotated[Form, Depends(form_of)]
Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class PageRoute(DeferredRoute):
    """A route whose refusals are pages too."""

    def get_route_handler(self) -> Handler:
        """Return the handler, with refusals made into pages."""
        handle = super().get_route_handler()

        async def handle_page(request: Request) -> Response:
            try:
                return render.compressed(request, await handle(request))
            except RefusedError as error:
                return _refusal(error, error.status)
            except EdgefleetError as error:
                return _refusal(error, problems.status_of(error.code) or 500)
            except HTTPException as error:
                return _refusal(
                    EdgefleetError(str(error.detail), next_step="use the forms on our pages"), error.status_code
                )
            except RequestValidationError:
                wrong = EdgefleetError("this address is not valid", next_step="start again from the overview")
                return _refusal(wrong, 422)
            except SQLAlchemyError as error:
                problems.domain_problem(request, DatabaseUnavailableError(str(type(error).__name__)))
                failed = EdgefleetError(
                    "the database did not answer", next_step="try again, or look at the server's log"
                )
                return _refusal(failed, 503)

        return handle_page


def build_router(shell: Shell, areas: Sequence[Area], is_closing: Callable[[], bool]) -> APIRouter:
    """Return the pages, to be mounted at the root. is_closing: whether this server is ending."""
    router = APIRouter(route_class=PageRoute, include_in_schema=False)
    _add_login_routes(router, shell.gate)
    add_action_route(router, shell)
    add_live_route(router, shell, is_closing)
    for add_pages in areas:
        add_pages(router, shell)
    _add_static(router)
    _add_api_page(router)
    return router


def _add_login_routes(router: APIRouter, gate: Gate) -> None:
    @router.get("/login", operation_id="show_login")
    def show_login(
        request: Request,
        code: Annotated[str, Query(max_length=128)] = "",
        to: Annotated[str, Query(max_length=128, alias="next")] = "/",
    ) -> Response:
        """Show how to sign in; with a link's code, the button that uses it. Uses nothing up."""
        session = gate.session_of(request)
        return render.render(
            "login.html", code=code, to=own_page(to), error=None, session=session, name="", providers=gate.providers
        )

    @router.post("/login", operation_id="login_browser")
    def login_browser(request: Request, form: Posted) -> Response:
        """Sign this browser in by a name and password, the code of a link or a token."""
        return gate.sign_in(request, form)

    @router.post("/logout", operation_id="logout_browser")
    def logout_browser(request: Request, form: Posted) -> Response:
        """Sign this browser out."""
        return gate.sign_out(request, form)


def _add_static(router: APIRouter) -> None:
    @router.get("/static/{name}", operation_id="show_static")
    def show_static(request: Request, name: str, v: str = "") -> Response:
        """Return a file that pages use. Kept by browsers for good when the address names what is in it."""
        found = render.assets().get(name)
        if found is None:
            return _refusal(EdgefleetError(f"there is no file {name[:80]!r}", next_step="start from the overview"), 404)
        data, media_type, digest = found
        is_exact = v == digest[:12]
        headers = {
            "etag": f'"{digest}"',
            "cache-control": "public, max-age=31536000, immutable" if is_exact else "no-cache",
        }
        if request.headers.get("if-none-match") == headers["etag"]:
            return Response(status_code=304, headers=headers)
        return Response(data, media_type=media_type, headers=headers)


def _add_api_page(router: APIRouter) -> None:
    @router.get("/docs", operation_id="show_api")
    def show_api() -> Response:
        """Show the API's description of itself, for people. Like the description it is there for everyone."""
        answer = render.render("api.html")
        answer.headers["content-security-policy"] = _API_PAGE_POLICY
        return answer


def _refusal(error: EdgefleetError, status: int) -> Response:
    return render.render("error.html", status, error=error, code=status)
