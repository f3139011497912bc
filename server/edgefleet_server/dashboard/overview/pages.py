"""The first page, and the answers that the script of its map asks for."""

from typing import Annotated, Any, Final
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import JSONResponse, Response

from edgefleet_server.access.model import Role
from edgefleet_server.dashboard.alerts.pages import LENGTHS, matchers_of
from edgefleet_server.dashboard.core.layout import Shell
from edgefleet_server.dashboard.objectives.budget_words import KINDS, WORDS
from edgefleet_server.dashboard.overview.map_picture import Colouring
from edgefleet_server.dashboard.overview.tiles import SPANS
from edgefleet_server.dashboard.overview.views import MapQuery, OverviewPages
from edgefleet_server.dashboard.timelines.time_range import AskedQuery, TimeRange
from edgefleet_server.fleet.inventory.fleet_map import Grouping

HEADERS: Final = {"cache-control": "no-store"}
Short = Annotated[str, Query(max_length=128)]


def _map_query(
    group: Grouping = Grouping.SITE, colour: Colouring = Colouring.HEALTH, model: Annotated[str, Query(max_length=63)] = ""
) -> MapQuery:  # fmt: skip
    return MapQuery(group, colour, model)


MapAsked = Annotated[MapQuery, Depends(_map_query)]


def add_pages(router: APIRouter, shell: Shell, reader: OverviewPages) -> None:
    """Add the pages."""

    @router.get("/", operation_id="show_overview")
    def show_overview(request: Request, asked: MapAsked, window: AskedQuery) -> Response:
        """Show whether the fleet is well, what is under way, and what happened today."""

        def build() -> dict[str, Any]:
            found = reader.overview(asked, window)
            return {
                "overview": found,
                "lengths": LENGTHS,
                "matchers_of": matchers_of,
                "slo_tones": KINDS,
                "slo_words": WORDS,
                "spans": SPANS,
                "with_parts": lambda **changed: _address(asked, found.range, **changed),
            }

        return shell.shown(request, "fleet/overview.html", build, tab="overview")

    @router.get("/map", operation_id="read_fleet_map")
    def read_fleet_map(request: Request, asked: MapAsked) -> Response:
        """Return the map of the fleet, a letter a device, for the script that draws it."""
        return _answer(request, shell, lambda: reader.map_plain(asked))

    @router.get("/map/names", operation_id="read_fleet_map_names")
    def read_fleet_map_names(
        request: Request, asked: MapAsked, of: Short = "", start: Annotated[int, Query(ge=0, lt=2**31)] = 0
    ) -> Response:
        """Return id and display name of the next devices of a group from a place on."""
        return _answer(request, shell, lambda: reader.map_names(asked, of, start))


def _answer(request: Request, shell: Shell, build: Any) -> Response:
    session = shell.gate.session_of(request)
    if session is None:
        return Response(status_code=401, headers=HEADERS)
    shell.check_role(session, Role.VIEWER)
    return JSONResponse(build(), headers=HEADERS)


def _address(asked: MapQuery, shown: TimeRange, **changed: str) -> str:
    usual = {"group": Grouping.SITE.value, "colour": Colouring.HEALTH.value, "model": "", "span": shown.usual}
    parts = {
        "group": asked.group.value,
        "colour": asked.colour.value,
        "model": asked.model,
        **shown.parts(**changed),
    } | changed
    query = urlencode({name: text for name, text in parts.items() if text != usual.get(name, "")})
    return f"/?{query}" if query else "/"
