"""Pages of one device: what it should run and runs, its figures over time, what it was asked to do, and what it answers."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from edgefleet_server.access.grants.grant_scope import Touched
from edgefleet_server.access.grants.scoped_caller import ScopedCaller
from edgefleet_server.access.model import Role
from edgefleet_server.dashboard.alerts.pages import matchers_of
from edgefleet_server.dashboard.core.layout import Shell
from edgefleet_server.dashboard.core.login import to_login
from edgefleet_server.dashboard.devices.views import DevicePages
from edgefleet_server.dashboard.timelines.time_range import AskedQuery
from edgefleet_server.db.keyset import PageRequest, decode_cursor
from edgefleet_server.fleet.desired.tasks import TaskBook

_TYPES = {"application/gzip": "tgz", "text/plain": "txt"}


def add_pages(router: APIRouter, shell: Shell, reader: DevicePages, tasks: TaskBook) -> None:
    """Add the pages."""

    @router.get("/devices/{device_id}", operation_id="show_device")
    def show_device(
        request: Request,
        device_id: str,
        asked: AskedQuery,
        events: Annotated[str | None, Query(max_length=64)] = None,
    ) -> Response:
        """Show one device: what it should run, what it reports, what happened."""

        def build() -> dict[str, Any]:
            session = shell.gate.session_of(request)
            may_act = session is not None and session.principal.may_somewhere(Role.OPERATOR)
            page = reader.device(device_id, asked, _number(events), may_act=may_act)
            return {"page": page, "matchers_of": matchers_of}

        return shell.shown(request, "fleet/device.html", build, tab="devices")

    @router.get("/devices/{device_id}/predictions", operation_id="show_predictions")
    def show_predictions(request: Request, device_id: str) -> Response:
        """Show what a watched device answered last."""
        build = lambda: {"page": reader.predictions(device_id), "device": device_id}  # noqa: E731
        return shell.shown(request, "fleet/predictions.html", build, tab="devices")

    @router.get("/devices/{device_id}/tasks/{task_id}", operation_id="download_task_result")
    def download_task_result(request: Request, device_id: str, task_id: str) -> Response:
        """Return what a device sent for a task, as a file."""
        session = shell.gate.session_of(request)
        if session is None:
            return to_login(request)
        touched = Touched(None, request.app.state.reach.device(device_id))
        ScopedCaller(session.principal, Role.OPERATOR).on(touched)
        media_type, data = tasks.result(device_id, task_id)
        ending = _TYPES.get(media_type.partition(";")[0], "bin")
        headers = {
            "content-disposition": f'attachment; filename="{task_id}.{ending}"',
            "cache-control": "no-store",
        }
        return Response(data, media_type=media_type, headers=headers)


def _number(cursor: str | None) -> int | None:
    return PageRequest(after=None if cursor is None else decode_cursor(cursor)).after_number()
