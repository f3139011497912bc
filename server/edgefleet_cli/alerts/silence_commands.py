"""`edgectl alert silence`: keep alerts quiet until a time."""

from __future__ import annotations

from typing import Annotated

import typer

from edgefleet_cli.core import api, completion
from edgefleet_cli.core.options import parse_duration_s
from edgefleet_cli.core.session import Session
from edgefleet_cli.core.transport.request import part
from edgefleet_cli.render.format import moment, text
from edgefleet_cli.render.output import Column, Sheet

app = typer.Typer(help="Keep alerts quiet until a time.", no_args_is_help=True)

SHEET: Sheet[api.alert.Silence] = Sheet(
    "silences",
    [
        Column("id", lambda s: text(s.id), keep=True),
        Column("until", lambda s: "over" if s.is_over else moment(s.until)),
        Column("matchers", lambda s: text(", ".join(s.matchers))),
        Column("devices", lambda s: text(s.selector)),
        Column("alerts", lambda s: text(s.alerts), right=True),
        Column("comment", lambda s: text(s.comment)),
        Column("by", lambda s: text(s.created_by)),
        Column("created", lambda s: moment(s.created_at), wide=True),
    ],
    lambda s: text(s.id),
)


@app.command("create")
def create(
    ctx: typer.Context,
    match: Annotated[
        list[str] | None,
        typer.Option(
            "--match",
            help="A matcher as in Alertmanager, e.g. rule=device_offline or site=osaka; all must hold. Repeatable.",
        ),
    ] = None,
    selector: Annotated[str | None, completion.selector_option("Alerts about devices that match")] = None,
    lasting: Annotated[str, typer.Option("--for", help="For how long, e.g. 2h or 7d.")] = "2h",
    comment: Annotated[str, typer.Option("--comment", "-m", help="Why.")] = "",
) -> None:
    """Keep matching alerts quiet; they are still listed, as suppressed."""
    session = Session.of(ctx)
    body = api.alert.SilenceIn(
        matchers=tuple(match or ()), selector=selector, for_s=int(parse_duration_s(lasting)), comment=comment
    )
    session.out.one(session.api.post("/alert-silences", body, api.alert.Silence), SHEET)


@app.command("list")
def list_silences(ctx: typer.Context) -> None:
    """List silences, newest first."""
    session = Session.of(ctx)
    session.out.items(session.api.page("/alert-silences", api.alert.Silence), SHEET)


@app.command("end")
def end(
    ctx: typer.Context, silence_id: Annotated[str, typer.Argument(metavar="ID", autocompletion=completion.silences)]
) -> None:
    """End a silence now."""
    session = Session.of(ctx)
    session.api.delete(f"/alert-silences/{part(silence_id)}")
    session.out.note(f"ended {silence_id}")
