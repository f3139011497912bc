"""The page of identities: who signed in by an identity provider, and which person that is."""

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from edgefleet_server.access.identities.service import IdentityBook
from edgefleet_server.access.model import Role
from edgefleet_server.dashboard.core.layout import Shell
from edgefleet_server.dashboard.settings.webhook_pages import Cursor
from edgefleet_server.db.keyset import PageRequest, decode_cursor


def add_pages(router: APIRouter, shell: Shell, identities: IdentityBook) -> None:
    """Add the page."""

    @router.get("/settings/identities", operation_id="show_identities")
    def show_identities(request: Request, cursor: Cursor = None) -> Response:
        """Show identities, with the forms that say which person each is."""

        def build() -> dict[str, Any]:
            after = None if cursor is None else decode_cursor(cursor)
            page = identities.identities(PageRequest(after=after))
            return {"page": page, "providers": identities.buttons, "is_first": cursor is None}

        return shell.shown(request, "settings/identities.html", build, tab="settings", role=Role.ADMIN)
