"""The search of all pages: one box in the header, a page of what it found, and the list under the box while one types."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Final
from urllib.parse import quote

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from edgefleet_server.access.model import Role
from edgefleet_server.dashboard.core.layout import Shell
from edgefleet_server.dashboard.core.navigation import ACTIONS, NAVIGATION, PARTS, Place, offered
from edgefleet_server.dashboard.core.saved_views import views_of
from edgefleet_server.search.model import Hit, HitKind
from edgefleet_server.search.service import SearchService

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


def add_pages(router: APIRouter, shell: Shell, search: SearchService) -> None:
    """Add the search."""

    def look(request: Request, template: str, q: str, each: int) -> Response:
        session = shell.gate.session_of(request)

        def build() -> dict[str, Any]:
            may = (lambda _role: False) if session is None else session.principal.may
            return {"q": q.strip(), "found": [*_views(request, q), *found(search, q, each, may)]}

        return shell.shown(request, template, build)

    @router.get("/find", operation_id="show_found")
    def show_found(request: Request, q: Text = "") -> Response:
        """Show what has a text in its name, and what can be done about it; without a text, all that can be done."""
        return look(request, "find.html", q, 25)

    @router.get("/find/list", operation_id="show_found_list")
    def show_found_list(request: Request, q: Text = "") -> Response:
        """Show the best of it, as the list under the box."""
        return look(request, "find_list.html", q, _UNDER_THE_BOX)


def found(search: SearchService, text: str, each: int, may: Callable[[Role], bool]) -> list[Found]:
    """Return at most `each` things of every kind that have a text in their name, between the places it names and those it may mean.

    may: whether the user has a role; places that the user may not open are left out. Without a text: what can be done.
    """
    wanted = text.strip().lower()
    if not wanted:
        return [_offer(one) for one in offered(ACTIONS, "", may)[0]]
    near, far = offered((*NAVIGATION, *ACTIONS, *PARTS), wanted, may)
    hits = [_found(hit) for hit in search.find(wanted, each)]
    return [*map(_offer, near[:each]), *hits, *map(_offer, far[:each])]


def _views(request: Request, text: str) -> list[Found]:
    """Return the saved views whose name has every word of a text."""
    words = text.lower().split()
    return [
        Found("view", one.name, "", one.path)
        for one in views_of(request)
        if words and all(word in one.name.lower() for word in words)
    ]


def _offer(place: Place) -> Found:
    return Found(place.kind, place.label, "", place.path)


def _found(hit: Hit) -> Found:
    if hit.kind is HitKind.RELEASE:
        model, _, version = hit.id.partition("@")
        path = f"/models/{quote(model)}/{quote(version, safe='+')}"
    elif hit.kind is HitKind.GROUP:
        path = f"/devices?selector={quote(f'group={hit.id}')}"
    else:
        path = _PATHS[hit.kind] + quote(hit.id)
    if hit.display_name:
        return Found(hit.kind.value, hit.display_name, f"{hit.id}, {hit.detail}", path)
    return Found(hit.kind.value, hit.id, hit.detail, path)
