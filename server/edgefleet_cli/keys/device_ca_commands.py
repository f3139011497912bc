"""`edgectl key device-ca`: give the fleet another device CA, with its devices attached."""

from __future__ import annotations

from typing import Annotated

import typer

from edgefleet_cli.core import api
from edgefleet_cli.core.session import Session
from edgefleet_cli.core.transport.request import NOTHING
from edgefleet_cli.render.format import moment, text
from edgefleet_cli.render.output import Column, Sheet

PATH = "/ca-rotations"
_SHOWN = 12
app = typer.Typer(help="Rotate the CA of devices, server and broker.", no_args_is_help=True)
Rotation = api.fleet.CaRotation
Reason = Annotated[str, typer.Option("--reason", help="Why, for the audit trail.")]


def _straggler(one: api.fleet.CaStraggler) -> str:
    how = "online" if one.is_online else f"seen {moment(one.last_seen)}" if one.last_seen else "never seen"
    return f"{text(one.device)} ({how}{'' if one.is_told else ', was not told'})"


def _following(one: Rotation) -> str:
    found = one.followers
    return f"{found.followed} of {found.devices}, online {found.online_followed} of {found.online}"


SHEET: Sheet[Rotation] = Sheet(
    "rotations of the device CA; begin one with `edgectl key device-ca start`",
    [
        Column("state", lambda r: text(r.state), keep=True),
        Column("from", lambda r: text(r.old_ca)[:_SHOWN]),
        Column("to", lambda r: text(r.new_ca)[:_SHOWN]),
        Column("followed", _following),
        Column("behind", lambda r: ", ".join(_straggler(one) for one in r.followers.behind)),
        Column("next", lambda r: text(r.next)),
        Column("started", lambda r: moment(r.started_at), wide=True),
        Column("by", lambda r: text(r.started_by), wide=True),
        Column("reason", lambda r: text(r.reason), wide=True),
    ],
    lambda r: text(r.state),
)


@app.command("status")
def status(ctx: typer.Context) -> None:
    """Show the newest rotations of the device CA, who has not followed, and what to do next."""
    session = Session.of(ctx)
    session.out.items(session.api.pages(PATH, Rotation), SHEET)


@app.command("start")
def start(
    ctx: typer.Context,
    within: Annotated[
        int, typer.Option("--within", min=0, max=604_800, help="Seconds over which devices renew, each at its moment.")
    ] = 3_600,
    reason: Reason = "",
) -> None:
    """Make another device CA, trust both, and ask all devices, signed, to renew their certificates early."""
    session = Session.of(ctx)
    body = api.fleet.CaRotationStartIn(spread_s=within, reason=reason)
    session.out.one(session.api.post(PATH, body, Rotation), SHEET)


@app.command("undo")
def undo(ctx: typer.Context) -> None:
    """Call the devices back to the CA of before; `finish` then destroys the other one."""
    session = Session.of(ctx)
    session.confirm("Call all devices back to the CA of before?")
    session.out.one(session.api.post(f"{PATH}:undo", NOTHING, Rotation), SHEET)


@app.command("finish")
def finish(
    ctx: typer.Context,
    leave_behind: Annotated[
        int, typer.Option("--leave-behind", min=0, help="So many devices that are online may be missing.")
    ] = 0,
    reason: Reason = "",
) -> None:
    """Trust one CA only, end the sessions of the other, and destroy its key. Refused while devices are missing."""
    session = Session.of(ctx)
    session.confirm("Destroy the key of the other device CA? It cannot be had again.")
    body = api.fleet.CaRotationFinishIn(leave_behind=leave_behind, reason=reason)
    session.out.one(session.api.post(f"{PATH}:finish", body, Rotation), SHEET)
