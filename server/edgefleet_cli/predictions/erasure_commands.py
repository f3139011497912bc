"""`edgectl data`: erase a person's data, and show the receipts."""

from __future__ import annotations

from typing import Annotated

import typer

from edgefleet_cli.core import api, completion
from edgefleet_cli.core.session import Session
from edgefleet_cli.core.transport.request import part
from edgefleet_cli.predictions.render import ERASURES, note_rest
from edgefleet_cli.render.format import counted, text

app = typer.Typer(help="Export data sets, and erase a person's data.", no_args_is_help=True)


@app.command("erase")
def erase(
    ctx: typer.Context,
    subject: Annotated[
        str, typer.Option("--subject", metavar="ID", help="As callers name it with X-Edgefleet-Subject.")
    ],
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model", metavar="MODEL", help="Only from this log; may be repeated.", autocompletion=completion.models
        ),
    ] = None,
) -> None:
    """Erase a subject from prediction logs, here and on devices. Cannot be undone."""
    session = Session.of(ctx)
    session.confirm("Erase every row of this subject for good?")
    body = api.capture.ErasureIn(subject=subject, models=tuple(model or ()))
    made = session.api.post("/erasures", body, api.capture.Erasure)
    session.out.one(
        made,
        ERASURES,
        lambda one: session.out.line(
            f"{text(one.id)}: erased {counted(one.rows, 'row')} and {counted(one.captures, 'captured record')}"
        ),
    )
    note_rest(session.out, made.value)


@app.command("list")
def list_erasures(ctx: typer.Context) -> None:
    """List the receipts of erasures, newest first."""
    session = Session.of(ctx)
    session.out.items(session.api.pages("/erasures", api.capture.Erasure), ERASURES)


@app.command("show")
def show(ctx: typer.Context, erasure: Annotated[str, typer.Argument(metavar="ID")]) -> None:
    """Show the receipt of one erasure."""
    session = Session.of(ctx)
    found = session.api.get(f"/erasures/{part(erasure)}", api.capture.Erasure)
    session.out.one(found, ERASURES)
    note_rest(session.out, found.value)
