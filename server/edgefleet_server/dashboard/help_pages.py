"""Pages that explain the pages: the glossary, to which hard words link; the keyboard shortcuts; the components in every state."""

from typing import Final

from fastapi import APIRouter, Request
from fastapi.responses import Response

from edgefleet_server.dashboard.core.glossary import glossary
from edgefleet_server.dashboard.core.layout import Shell

SWATCHES: Final = (
    "bg", "card", "sunken", "line", "control", "muted", "text", "ink", "accent", "brand", "ok-soft", "ok-fill", "warn-soft", "warn-fill",
    "bad-soft", "bad-fill", "run-soft", "run-fill", "off-soft", "off-fill", "s1", "s2", "s3", "s4", "s5", "s6",
)  # fmt: skip
"""Colours by their tokens."""
ICONS: Final = {
    "ok": "good", "run": "under way", "warn": "degraded", "bad": "failed", "off": "offline", "wait": "not started", "hand": "by a person",
    "shield": "proven", "undo": "roll back", "fwd": "promote", "pause": "pause", "swap": "switch slot",
}  # fmt: skip
"""Icons, each with what it says."""


def add_pages(router: APIRouter, shell: Shell) -> None:
    """Add the pages."""

    @router.get("/glossary", operation_id="show_glossary")
    def show_glossary(request: Request) -> Response:
        """Show what each word of the product means."""
        return shell.shown(request, "glossary.html", lambda: {"terms": glossary().values(), "is_still": True})

    @router.get("/shortcuts", operation_id="show_shortcuts")
    def show_shortcuts(request: Request) -> Response:
        """Show what the keyboard can do on every page."""
        return shell.shown(request, "shortcuts.html", lambda: {"is_still": True})

    @router.get("/styleguide", operation_id="show_styleguide")
    def show_styleguide(request: Request) -> Response:
        """Show the tokens and every component in every state."""
        return shell.shown(request, "styleguide.html", lambda: {"is_still": True, "swatches": SWATCHES, "icons": ICONS})
