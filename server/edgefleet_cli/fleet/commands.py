"""`edgectl events` and `edgectl fleet summary`."""

from __future__ import annotations

from typing import Annotated

import typer

from edgefleet_cli.core import api, completion
from edgefleet_cli.core.errors import EXIT_TIMEOUT, UsageError
from edgefleet_cli.core.options import time_of
from edgefleet_cli.core.session import Session
from edgefleet_cli.fleet.render import EVENTS
from edgefleet_cli.render.format import pairs, text
from edgefleet_cli.render.output import Column
from edgefleet_cli.timelines.commands import fleet_metrics

app = typer.Typer(help="Show the fleet as a whole.", no_args_is_help=True)
LAST = 50
app.command("metrics")(fleet_metrics)


def events(  # noqa: PLR0913, PLR0917  # one parameter an option
    ctx: typer.Context,
    limit: Annotated[
        int | None,
        typer.Option("--limit", min=1, help="At most this many; default: 50, or all with --since."),
    ] = None,
    since: Annotated[
        str | None, typer.Option("--since", metavar="T", help="Only events since then: 2h, or RFC 3339.")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Keep printing new events.")] = False,
    rollout: Annotated[
        str | None,
        typer.Option("--rollout", metavar="ID", help="Only of this rollout.", autocompletion=completion.rollouts),
    ] = None,
    kind: Annotated[
        str | None, typer.Option("--kind", help="Only of this kind, e.g. rollout, stage, assignment.")
    ] = None,
    event_type: Annotated[
        str | None,
        typer.Option("--type", help="With -f: only these types, e.g. edgefleet.rollout.*; comma-separated."),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option("--device", metavar="ID", help="Only of this device.", autocompletion=completion.devices),
    ] = None,
) -> None:
    """List events, newest first; with -f follow them, oldest first."""
    session = Session.of(ctx)
    begin = None if since is None else time_of(since, session.clock.now()).isoformat()
    filters = {"rollout": rollout, "kind": kind, "device": device, "since": begin}
    if not follow:
        if event_type is not None:
            raise UsageError(
                "--type needs -f",
                why="the list is filtered by --kind",
                next_step="add -f, or use --kind",
            )

        session.out.items(session.api.pages("/events", api.fleet.Event, limit=limit or LAST, **filters), EVENTS)
        return
    from edgefleet_cli.fleet.follow import Follower, show_line

    follower = Follower(session.api, session.out.note, session.clock, {**filters, "type": event_type})
    is_first = True
    first = limit or (None if begin else LAST)
    for event in follower.follow(limit=first, wait_s=session.options.timeout_s):
        if session.out.is_for_eyes:
            show_line(session.out, event.value)
        else:
            session.out.record(event, EVENTS, is_first=is_first)
        is_first = False
    raise typer.Exit(EXIT_TIMEOUT)


@app.command("summary")
def summary(ctx: typer.Context) -> None:
    """Show counts of devices by status, profile and model version."""
    session = Session.of(ctx)
    figures = session.api.get("/fleet/summary", api.fleet.FleetSummary)
    session.out.facts(figures.raw, lambda: _show(session, figures.value))


MODELS: list[Column[api.fleet.ModelCount]] = [
    Column("model", lambda m: text(m.model)),
    Column("version", lambda m: text(m.version)),
    Column("state", lambda m: text(m.state)),
    Column("devices", lambda m: text(m.devices), right=True),
]


def _show(session: Session, figures: api.fleet.FleetSummary) -> None:
    session.out.fields(
        [("devices", text(figures.devices)), ("status", pairs(figures.status)), ("profiles", pairs(figures.profiles))]
    )
    if figures.models:
        session.out.heading("Models")
        session.out.table(figures.models, MODELS)
