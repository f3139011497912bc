"""The page of the glossary: what the words of the product mean. Hard words on other pages link to it."""

from fastapi import APIRouter, Request
from fastapi.responses import Response

from edgefleet_server.dashboard.core.glossary import glossary
from edgefleet_server.dashboard.core.layout import Shell


def add_pages(router: APIRouter, shell: Shell) -> None:
    """Add the page."""

    @router.get("/glossary", operation_id="show_glossary")
    def show_glossary(request: Request) -> Response:
        """Show what each word of the product means."""
        return shell.shown(request, "glossary.html", lambda: {"terms": glossary().values(), "is_still": True})
