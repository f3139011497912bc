"""Pages of the fleet: devices and what is done to many of them, groups."""

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from edgefleet_server.access.model import Role
from edgefleet_server.dashboard.core.forms import NothingSelectedError
from edgefleet_server.dashboard.core.layout import Shell
from edgefleet_server.dashboard.fleet.device_query import Search
from edgefleet_server.dashboard.fleet.views import FleetPages
from edgefleet_server.dashboard.timelines.time_range import AskedQuery
from edgefleet_server.db.keyset import decode_cursor
from edgefleet_server.fleet.errors import BadSelectorError
from edgefleet_server.fleet.protection.model import Covered as ProtectionCount
from edgefleet_server.telemetry.timelines.model import LinesBy

BULK: Final = ("deploy", "label", "restart")
Text = Annotated[str, Query(max_length=4096)]
Short = Annotated[str, Query(max_length=128)]
Cursor = Annotated[str | None, Query(max_length=512)]
ByQuery = Annotated[LinesBy | None, Query()]
Ids = Annotated[list[str] | None, Query(max_length=200)]


Covered = Callable[[str], Sequence[ProtectionCount]]
"""The protection rules of the devices that a selector matches."""


def add_pages(router: APIRouter, shell: Shell, reader: FleetPages, covered: Covered) -> None:
    """Add the pages."""

    _add_devices(router, shell, reader)
    _add_bulk(router, shell, reader, covered)
    _add_groups(router, shell, reader)


def _add_devices(router: APIRouter, shell: Shell, reader: FleetPages) -> None:
    @router.get("/devices", operation_id="show_devices")
    def show_devices(
        request: Request,
        q: Text = "",
        selector: Text = "",
        text: Short = "",
        sort: Short = "",
        after: Cursor = None,
        before: Cursor = None,
    ) -> Response:
        """List devices: searched, narrowed, sorted, in pages both ways."""
        search = Search.of(q=q, selector=selector, text=text, sort=sort)

        def build() -> dict[str, Any]:
            return _or_wrong(
                search, lambda asked: {"page": reader.devices(asked, *_pages(asked, search, after, before))}
            )

        return shell.shown(request, "fleet/list.html", build, tab="devices")


def _add_bulk(router: APIRouter, shell: Shell, reader: FleetPages, covered: Covered) -> None:
    @router.get("/fleet/bulk", operation_id="show_bulk")
    def show_bulk(
        request: Request,
        do: Short = "",
        selector: Text = "",
        text: Short = "",
        device: Ids = None,
        matching: Annotated[int | None, Query(ge=0, lt=2**63, alias="all")] = None,
    ) -> Response:
        """Say how many devices something would be done to, and which, before it is done.

        matching: how many the page showed when all that match were selected; they go before single ones.
        """
        search = Search.of(selector=selector, text=text)

        def build() -> dict[str, Any]:
            if matching is None and not device:
                raise NothingSelectedError(search.address())
            action, chosen = do if do in BULK else BULK[0], device if matching is None else None
            page = reader.bulk(search, chosen)
            rules = covered(page.selector) if action == "deploy" and page.selector else ()
            return {"page": page, "do": action, "back": search.address(), "asked": matching, "protections": rules}

        return shell.shown(request, "fleet/bulk.html", build, tab="devices", role=Role.OPERATOR)


def _add_groups(router: APIRouter, shell: Shell, reader: FleetPages) -> None:
    @router.get("/groups", operation_id="show_groups")
    def show_groups(request: Request, selector: Text = "", cursor: Cursor = None) -> Response:
        """List groups, and make one."""

        def build() -> dict[str, Any]:
            page = reader.groups(None if cursor is None else decode_cursor(cursor), selector)
            return {"page": page, "selector": selector, "is_first": not cursor}

        return shell.shown(request, "fleet/groups.html", build, tab="groups")

    @router.get("/groups/{name}", operation_id="show_group")
    def show_group(request: Request, name: str, asked: AskedQuery, by: ByQuery = None) -> Response:
        """Show one group and its members."""

        def build() -> dict[str, Any]:
            return {
                "page": reader.group(name),
                "all": Search().toggled("group", name).address(),
                "timeline": reader.over_time(name, asked, by),
            }

        return shell.shown(request, "fleet/group.html", build, tab="groups")


def _pages(asked: Search, search: Search, after: str | None, before: str | None) -> Sequence[str | None]:
    """Return the places of a page; none when something else is shown than what was asked for."""
    return (after, before) if asked is search else (None, None)


def _or_wrong(search: Search, build: Callable[[Search], dict[str, Any]]) -> dict[str, Any]:
    """Return what a search shows; for a wrong selector all devices, and what is wrong with it."""
    try:
        return {"wrong": None, "box": search.box} | build(search)
    except BadSelectorError as error:
        return {"wrong": error, "box": search.box} | build(Search(order=search.order, descending=search.descending))
