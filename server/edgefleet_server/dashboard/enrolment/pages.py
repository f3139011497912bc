"""The page of enrolment: claim tokens, and devices that wait to be let in.

What can be done from it are forms (`actions`). A decision is about the devices that were ticked or shown, never about those that came
meanwhile. The page with new tokens is the only place where they are shown.
"""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from edgefleet_protocol.clock import Clock
from edgefleet_server.dashboard.core.layout import Shell
from edgefleet_server.dashboard.enrolment.views import EnrolmentReader
from edgefleet_server.db.keyset import decode_cursor
from edgefleet_server.fleet.enrolment.pending_devices import PendingState
from edgefleet_server.fleet.errors import BadSelectorError
from edgefleet_server.registry.service import RegistryService


def add_pages(
    router: APIRouter, shell: Shell, reader: EnrolmentReader, registry: RegistryService, clock: Clock, *, waits: bool
) -> None:
    """Add the page. waits: whether devices wait for an operator unless their claim token says otherwise."""

    @router.get("/enrolment", operation_id="show_enrolment")
    def show_enrolment(
        request: Request,
        state: PendingState = PendingState.PENDING,
        selector: Annotated[str, Query(max_length=4096)] = "",
        cursor: Annotated[str | None, Query(max_length=256)] = None,
    ) -> Response:
        """Show the devices that wait for approval, and the claim tokens."""

        def build() -> dict[str, Any]:
            after = None if cursor is None else decode_cursor(cursor)
            values = {"selector": selector, "wrong_selector": None, "state": state, "approval": waits}
            profiles, now = [profile.name for profile in registry.profiles()], clock.now()
            try:
                return values | {"page": reader.page(state, selector, after, profiles, now)}
            except BadSelectorError as error:
                return values | {"wrong_selector": error, "page": reader.page(state, "", None, profiles, now)}

        return shell.shown(request, "enrolment/list.html", build, tab="enrolment")
