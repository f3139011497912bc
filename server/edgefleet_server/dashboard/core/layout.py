"""What all pages share: the session, the layout, and the sentence about the last action.

A page module has `add_pages(router, shell, …)`, which takes the services it uses; the composition lists the areas. What can be changed
from pages is in `actions`; a page only makes the form.
"""

from collections.abc import Callable
from typing import Any, Final

from fastapi import Request
from fastapi.responses import Response

from edgefleet_protocol.clock import Clock
from edgefleet_server.access.errors import ForbiddenError
from edgefleet_server.access.model import BrowserSession, Role
from edgefleet_server.dashboard.core import render
from edgefleet_server.dashboard.core.login import Gate, address_of, to_login
from edgefleet_server.dashboard.core.navigation import ADMIN, NAVIGATION, SECTIONS, allowed, section_of
from edgefleet_server.dashboard.core.pickers import Picks, Readers
from edgefleet_server.dashboard.core.preferences import preferences_of
from edgefleet_server.dashboard.core.saved_views import views_of
from edgefleet_server.dashboard.operations.catalog import Operations
from edgefleet_server.dashboard.operations.command_preview import command_lines, curl_line
from edgefleet_server.dashboard.operations.own_scope import may_do
from edgefleet_server.dashboard.operations.reversal import opened

SAID_COOKIE: Final = "edgefleet_said"


class Shell:
    """Renders pages for the user who is signed in."""

    def __init__(self, gate: Gate, clock: Clock, name_of: Callable[[str], str], readers: Readers) -> None:
        """Wire the parts. name_of: the display name of a device, "" when it has none; readers: of what fields offer."""
        self._clock = clock
        self._readers = readers
        self._name_of = name_of
        self.gate = gate
        self._operations: Operations | None = None

    def operations(self, request: Request) -> Operations:
        """Return the operations of the public API, read from its own description once."""
        if self._operations is None:
            self._operations = Operations(request.app.described())
        return self._operations

    def shown(
        self,
        request: Request,
        template: str,
        build: Callable[[], dict[str, Any]],
        *,
        tab: str = "",
        role: Role = Role.VIEWER,
    ) -> Response:
        """Return a page for a signed-in user, else a redirect to the login. Raises ForbiddenError, and what `build` raises."""
        session = self.gate.session_of(request)
        if session is None or not session.principal.may(Role.VIEWER):
            return to_login(request)
        self.check_role(session, role)
        return self.page(request, session, template, tab=tab, **build())

    def check_role(self, session: BrowserSession, role: Role) -> None:
        """Raise ForbiddenError when the user of a session lacks a role: signing in again as the same one would not help."""
        if not session.principal.may_somewhere(role):
            raise ForbiddenError(
                f"this page needs the role {role}; {session.principal.name} has: {session.principal.said()}",
                next_step=f"ask an admin for a token with it (`edgectl token create --name NAME --role {role}`), and sign in with that",
            )

    def page(
        self,
        request: Request,
        session: BrowserSession,
        template: str,
        *,
        tab: str = "",
        status: int = 200,
        **values: Any,
    ) -> Response:
        """Return a page for a session."""
        sentence, undo = opened(request.cookies.get(SAID_COOKIE, ""), session.form_key)
        operations = self.operations(request)
        now = self._clock.now()
        picks = Picks(self._readers)
        may = (
            session.principal.may_somewhere
        )  # a page is shown to who may act on a part of it; each button asks for itself
        sections, admin = allowed(SECTIONS, may), allowed([ADMIN], may)
        answer = render.render(
            template,
            status,
            session=session,
            now=now,
            name_of=self._name_of,
            tab=tab,
            said=sentence,
            undoing=undo,
            here=address_of(request),
            live_part=render.live_part_of(request.scope.get(render.LIVE_PARTS_KEY, {})),
            preferences=preferences_of(request),
            saved_views=views_of(request),
            sections=sections,
            admin=admin,
            section=section_of([*sections, *admin], tab),
            keys={one.key: one.path for one in NAVIGATION if one.key and may(one.role)},
            pick=picks.pick,
            picked=picks.lists,
            may=lambda role: may(Role(role)),
            may_do=lambda operation_id, fields, role: may_do(
                session.principal, operations, operation_id, fields, Role(role), request.app.state.reach
            ),
            commands=lambda operation_id, form, asks: command_lines(
                operations, operation_id, form.values, form.needs, now, asks
            ),
            curl=lambda operation_id, fields: curl_line(operations, operation_id, fields),
            **values,
        )
        if sentence:
            answer.delete_cookie(SAID_COOKIE, path="/", httponly=True, samesite="strict")
        return answer
