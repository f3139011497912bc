"""The search of all pages: one box in the header, a page of what it found, and the list under the box while one types."""

from dataclasses import dataclass
from typing import Annotated, Final
from urllib.parse import quote

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from edgefleet_server.dashboard.shell import NAVIGATION, Shell
from edgefleet_server.parts import Parts
from edgefleet_server.search.model import Hit, HitKind

_UNDER_THE_BOX: Final = 5
_PATHS: Final = {HitKind.DEVICE: "/devices/", HitKind.MODEL: "/models/", HitKind.ROLLOUT: "/rollouts/"}
Text = Annotated[str, Query(max_length=128)]


@dataclass(frozen=True, slots=True)
class Found:
    """One thing that was found: its kind in a word, its name, a few words on it, and its page."""

    kind: str
    name: str
    detail: str
    path: str


def add_pages(router: APIRouter, shell: Shell, parts: Parts) -> None:
    """Add the search."""

    @router.get("/find", operation_id="show_found")
    def show_found(request: Request, q: Text = "") -> Response:
        """Show what has a text in its name."""
        return shell.shown(request, "find.html", lambda: {"q": q, "found": found(parts, q, 25)})

    @router.get("/find/list", operation_id="show_found_list")
    def show_found_list(request: Request, q: Text = "") -> Response:
        """Show the best of it, as the list under the box."""
        return shell.shown(request, "find_list.html", lambda: {"q": q, "found": found(parts, q, _UNDER_THE_BOX)})


def found(parts: Parts, text: str, each: int) -> list[Found]:
    """Return pages whose label begins with a text, then at most `each` things of every kind with it in their name."""
    wanted = text.strip().lower()
    if not wanted:
        return []
    pages = [Found("page", one.label, "", one.path) for one in NAVIGATION if one.label.lower().startswith(wanted)]
    return pages + [_found(hit) for hit in parts.search.find(wanted, each)]


def _found(hit: Hit) -> Found:
    if hit.kind is HitKind.RELEASE:
        model, _, version = hit.id.partition("@")
        path = f"/models/{quote(model)}/{quote(version, safe='+')}"
    elif hit.kind is HitKind.GROUP:
        path = f"/devices?selector={quote(f'group={hit.id}')}"
    else:
        path = _PATHS[hit.kind] + quote(hit.id)
    return Found(hit.kind.value, hit.id, hit.detail, path)
