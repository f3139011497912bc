"""`edgectl alert window`: maintenance windows, in which the alerts of their devices are suppressed."""

from __future__ import annotations

from typing import Annotated

import typer

from edgefleet_cli.core import api, completion
from edgefleet_cli.core.options import parse_duration_s
from edgefleet_cli.core.session import Session
from edgefleet_cli.core.transport.request import part
from edgefleet_cli.render.format import moment, text
from edgefleet_cli.render.output import Column, Sheet

app = typer.Typer(help="Manage maintenance windows.", no_args_is_help=True)

SHEET: Sheet[api.alert.MaintenanceWindow] = Sheet(
    "maintenance windows",
    [
        Column("id", lambda w: text(w.id), keep=True),
        Column("name", lambda w: text(w.name)),
        Column("cron", lambda w: text(w.cron)),
        Column("minutes", lambda w: text(w.duration_s // 60), right=True),
        Column("zone", lambda w: text(w.tz)),
        Column("devices", lambda w: text(w.selector or "all")),
        Column("open", lambda w: text(w.is_open)),
        Column("until", lambda w: moment(w.until), wide=True),
        Column("by", lambda w: text(w.created_by), wide=True),
    ],
    lambda w: text(w.id),
)


@app.command("create")
def create(  # a window is all of these
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="What is done then.")],
    cron: Annotated[str, typer.Option("--cron", help="When it begins: five fields as in cron, e.g. '0 1 * * *'.")],
    lasting: Annotated[str, typer.Option("--for", help="How long it is open, e.g. 4h; up to 7d.")],
    selector: Annotated[str, completion.selector_option("Devices that are in maintenance then")] = "",
    zone: Annotated[
        str, typer.Option("--tz", help="Time zone of the cron, or `device`: that of the label tz.")
    ] = "UTC",
) -> None:
    """Suppress the alerts of devices regularly."""
    session = Session.of(ctx)
    body = api.alert.MaintenanceWindowIn(
        name=name, cron=cron, duration_s=int(parse_duration_s(lasting)), tz=zone, selector=selector
    )
    session.out.one(session.api.post("/maintenance-windows", body, api.alert.MaintenanceWindow), SHEET)


@app.command("list")
def list_windows(ctx: typer.Context) -> None:
    """List maintenance windows, and which are open."""
    session = Session.of(ctx)
    session.out.items(session.api.page("/maintenance-windows", api.alert.MaintenanceWindow), SHEET)


@app.command("delete")
def delete(
    ctx: typer.Context, window_id: Annotated[str, typer.Argument(metavar="ID", autocompletion=completion.windows)]
) -> None:
    """Delete a maintenance window."""
    session = Session.of(ctx)
    session.confirm(f"Delete maintenance window {window_id}?")
    session.api.delete(f"/maintenance-windows/{part(window_id)}")
    session.out.note(f"deleted {window_id}")
