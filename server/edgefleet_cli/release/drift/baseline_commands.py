"""`edgectl drift baseline`: a period that counts as normal for a release."""

from __future__ import annotations

from typing import Annotated

import typer

from edgefleet_cli.core import api, completion
from edgefleet_cli.core.session import Session
from edgefleet_cli.core.transport.request import part
from edgefleet_cli.release.drift.render import BASELINE
from edgefleet_cli.render.format import counted, text

baseline = typer.Typer(
    help="Manage what counts as normal for a release, in place of its reference.", no_args_is_help=True
)
Release = Annotated[
    str, typer.Argument(metavar="REF", help="name@version or name@alias.", autocompletion=completion.releases)
]


def _path(ref: str) -> str:
    return f"/releases/{part(ref)}/drift-baseline"


@baseline.command("set")
def set_baseline(
    ctx: typer.Context,
    ref: Release,
    since: Annotated[str, typer.Option("--since", metavar="T", help="Beginning: 7d ago, or RFC 3339.")],
    until: Annotated[
        str | None, typer.Option("--until", metavar="T", help="End: 1d ago, or RFC 3339; default: now.")
    ] = None,
) -> None:
    """Judge a release by what devices counted in a period. Each device has the same weight."""
    from edgefleet_cli.core.options import time_of

    session = Session.of(ctx)
    now = session.clock.now()
    end = None if until is None else time_of(until, now).isoformat()
    body = api.release.BaselineIn(since=time_of(since, now).isoformat(), until=end)
    found = session.api.put(_path(ref), body, api.release.DriftBaseline)
    session.out.one(
        found,
        BASELINE,
        lambda one: session.out.note(
            f"{text(one.release)} is judged by {one.answers} answers of {counted(one.devices, 'device')} now"
        ),
    )


@baseline.command("show")
def show_baseline(ctx: typer.Context, ref: Release) -> None:
    """Show the period that was chosen for a release, by whom and when."""
    session = Session.of(ctx)
    session.out.one(session.api.get(_path(ref), api.release.DriftBaseline), BASELINE)


@baseline.command("clear")
def clear_baseline(ctx: typer.Context, ref: Release) -> None:
    """Judge a release by its own reference again."""
    session = Session.of(ctx)
    session.confirm(f"Judge {ref} by its own reference again?")
    session.api.delete(_path(ref))
    session.out.note(f"{ref} is judged by its own reference again")
