"""`edgectl group`: saved selectors. A group is always what its selector matches now."""

from __future__ import annotations

from typing import Annotated

import typer

from edgefleet_cli.core import api, completion
from edgefleet_cli.core.session import Session
from edgefleet_cli.core.transport.request import part
from edgefleet_cli.render.format import moment, text
from edgefleet_cli.render.output import Column, Sheet
from edgefleet_cli.timelines.commands import group_metrics

app = typer.Typer(help="Manage groups of devices, for `group=NAME` in selectors.", no_args_is_help=True)
Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the group.", autocompletion=completion.groups)]

SHEET: Sheet[api.fleet.Group] = Sheet(
    "groups; save one with `edgectl group create NAME -l SELECTOR`",
    [
        Column("name", lambda g: text(g.name), keep=True),
        Column("selector", lambda g: text(g.selector or "all devices")),
        Column("devices", lambda g: text(g.devices), right=True),
        Column("created", lambda g: moment(g.created_at)),
        Column("by", lambda g: text(g.created_by)),
    ],
    lambda g: text(g.name),
)


@app.command("create")
def create(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the group.")],
    selector: Annotated[str, completion.selector_option("Devices of the group")],
) -> None:
    """Save a selector under a name."""
    session = Session.of(ctx)
    group = session.api.post("/groups", api.fleet.GroupIn(name=name, selector=selector), api.fleet.Group)
    session.out.one(group, SHEET)


@app.command("change")
def change(
    ctx: typer.Context,
    name: Name,
    selector: Annotated[str, completion.selector_option("Devices of the group")],
) -> None:
    """Change the selector of a group; refused while an open rollout uses it."""
    session = Session.of(ctx)
    group = session.api.patch(f"/groups/{part(name)}", api.fleet.GroupChangeIn(selector=selector), api.fleet.Group)
    session.out.one(group, SHEET)


@app.command("list")
def list_groups(ctx: typer.Context) -> None:
    """List groups and their number of devices."""
    session = Session.of(ctx)
    session.out.items(session.api.pages("/groups", api.fleet.Group), SHEET)


@app.command("show")
def show(ctx: typer.Context, name: Name) -> None:
    """Show a group."""
    session = Session.of(ctx)
    session.out.one(session.api.get(f"/groups/{part(name)}", api.fleet.Group), SHEET)


@app.command("members")
def members(ctx: typer.Context, name: Name) -> None:
    """List the devices of a group."""
    from dataclasses import replace

    from edgefleet_cli.device.render import device_sheet

    session = Session.of(ctx)
    page = session.api.pages(f"/groups/{part(name)}/members", api.device.Device)
    session.out.items(page, replace(device_sheet(session.clock.now()), plural=f"device is in the group {name}"))


app.command("metrics")(group_metrics)


@app.command("delete")
def delete(ctx: typer.Context, name: Name) -> None:
    """Delete a group; its devices are not touched."""
    session = Session.of(ctx)
    session.confirm(f"Delete the group {name}? Selectors that use it stop working.")
    session.api.delete(f"/groups/{part(name)}")
    session.out.note(f"deleted {name}")
