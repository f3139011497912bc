"""`edgectl server move`: take a server to another name, address, port or machine with its devices attached."""

from __future__ import annotations

from typing import Annotated

import typer

from edgefleet_cli.core import api
from edgefleet_cli.core.session import Session
from edgefleet_cli.core.transport.request import NOTHING
from edgefleet_cli.render.format import moment, text
from edgefleet_cli.render.output import Column, Sheet

PATH = "/server-moves"
app = typer.Typer(help="Move the server with its devices attached.", no_args_is_help=True)
Move = api.fleet.ServerMove


def _place(one: api.fleet.MovePlace) -> str:
    return f"{one.url}, broker {one.broker_host}:{one.broker_port}"


def _following(move: Move) -> str:
    found = move.followers
    if not move.number:
        return f"{found.devices} devices, none was told"
    return f"{found.followed} of {found.devices} devices use it, {found.told} know it"


SHEET: Sheet[Move] = Sheet(
    "moves of the server; plan one with `edgectl server move plan --host NAME`",
    [
        Column("state", lambda m: text(m.state), keep=True),
        Column("from", lambda m: _place(m.before)),
        Column("to", lambda m: _place(m.after)),
        Column("devices", _following),
        Column("behind", lambda m: ", ".join(m.followers.behind) if m.number else ""),
        Column("next", lambda m: text(m.next)),
        Column("planned", lambda m: moment(m.planned_at), wide=True),
        Column("by", lambda m: text(m.planned_by), wide=True),
    ],
    lambda m: text(m.state),
)


@app.command("status")
def status(ctx: typer.Context) -> None:
    """Show the newest moves, how many devices have followed, and what to do next."""
    session = Session.of(ctx)
    session.out.items(session.api.pages(PATH, Move), SHEET)


@app.command("plan")
def plan(
    ctx: typer.Context,
    host: Annotated[str, typer.Option("--host", help="New name or address, also of the server's own broker.")] = "",
    device_port: Annotated[int, typer.Option("--device-port", min=0, max=65535, help="New device port.")] = 0,
    broker_host: Annotated[str, typer.Option("--broker-host", help="New name of the broker, if another one.")] = "",
    broker_port: Annotated[int, typer.Option("--broker-port", min=0, max=65535, help="New port of the broker.")] = 0,
) -> None:
    """Plan a move: from its next start the server serves the old place and the new one. Devices are told nothing yet."""
    session = Session.of(ctx)
    body = api.fleet.MovePlanIn(host=host, device_port=device_port, broker_host=broker_host, broker_port=broker_port)
    session.out.one(session.api.post(PATH, body, Move), SHEET)


@app.command("start")
def start(
    ctx: typer.Context,
    ahead: Annotated[
        bool, typer.Option("--ahead", help="Although nothing answers at the new place yet, as on a machine to come.")
    ] = False,
    within: Annotated[
        int, typer.Option("--within", min=0, max=86_400, help="Seconds over which devices go, each at its moment.")
    ] = 300,
) -> None:
    """Tell all devices of the new place, signed. They keep the old one until the new one has served them once."""
    session = Session.of(ctx)
    body = api.fleet.MoveStartIn(ahead=ahead, spread_s=within)
    session.out.one(session.api.post(f"{PATH}:start", body, Move), SHEET)


@app.command("undo")
def undo(ctx: typer.Context) -> None:
    """Call the devices back to the old place, or drop a plan."""
    session = Session.of(ctx)
    session.confirm("Call all devices back to the old place?")
    session.out.one(session.api.post(f"{PATH}:undo", NOTHING, Move), SHEET)


@app.command("finish")
def finish(
    ctx: typer.Context,
    leave_behind: Annotated[
        int, typer.Option("--leave-behind", min=0, help="So many devices may be missing; they will need a visit.")
    ] = 0,
) -> None:
    """End the move: only the new place is announced from now on. Refused while devices are missing."""
    session = Session.of(ctx)
    if leave_behind:
        session.confirm(f"Leave up to {leave_behind} devices behind? `edgectl server move status` names them.")
    session.out.one(session.api.post(f"{PATH}:finish", api.fleet.MoveFinishIn(leave_behind=leave_behind), Move), SHEET)
