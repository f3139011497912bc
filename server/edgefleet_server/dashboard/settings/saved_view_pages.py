"""Pages of the views that a browser keeps by name."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response

from edgefleet_server.dashboard.core.forms import Form, check_key, check_origin, form_of
from edgefleet_server.dashboard.core.layout import Shell
from edgefleet_server.dashboard.core.login import own_page, redirect, to_login
from edgefleet_server.dashboard.core.saved_views import keep_views, views_of, with_view, without_view

Posted = Annotated[Form, Depends(form_of)]


def add_view_pages(router: APIRouter, shell: Shell) -> None:
    """Add the pages."""

    @router.get("/views", operation_id="show_views")
    def show_views(request: Request, page: Annotated[str, Query(max_length=700)] = "") -> Response:
        """Show the views that this browser keeps. page: one to be saved."""
        path = own_page(page) if page else ""
        return shell.shown(request, "views.html", lambda: {"page_path": path, "is_still": True})

    @router.post("/views", operation_id="save_view")
    def save_view(request: Request, form: Posted) -> Response:
        """Keep a view by a name, or remove one. Changes nothing of the fleet."""
        session = shell.gate.session_of(request)
        if session is None:
            return to_login(request)
        check_origin(request)
        check_key(session, form)
        views = views_of(request)
        if form["remove"]:
            answer, kept = redirect("/views"), without_view(views, form["remove"])
        else:
            answer, kept = redirect(own_page(form["path"])), with_view(views, form["name"], form["path"])
        keep_views(answer, kept, secure=shell.gate.is_secure(request))
        return answer
