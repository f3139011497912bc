"""`edgectl slo`: objectives of models, what is left of their error budgets, and how fast these burn."""

from __future__ import annotations

from typing import Annotated

import typer

from edgefleet_cli.core import api, completion
from edgefleet_cli.core.errors import ApiError
from edgefleet_cli.core.session import Session
from edgefleet_cli.core.transport.reply import Reply
from edgefleet_cli.core.transport.request import part, written
from edgefleet_cli.objectives.render import SHEET, show_slo
from edgefleet_cli.objectives.slo_file import SloFile, read_slo_file

app = typer.Typer(help="Set objectives of models, and see what is left of their error budgets.", no_args_is_help=True)
Name = Annotated[str, typer.Argument(metavar="NAME", autocompletion=completion.slos)]
BAD_FILE = "slo.bad_file"


@app.command("set")
def set_slo(
    ctx: typer.Context,
    file: Annotated[
        str, typer.Option("--file", "-f", metavar="FILE", help="OpenSLO file (YAML or JSON); `-`: standard input.")
    ],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only check the file.")] = False,
) -> None:
    """Set the objectives of a file: make them, or put these in the place of those before."""
    session = Session.of(ctx)
    files = read_slo_file(file)
    if len(files) > 1 and not dry_run:  # a mistake in the last one must not leave the others set
        for one in files:
            _put(session, one, dry_run=True)
    replies = [_put(session, one, dry_run=dry_run) for one in files]
    session.out.rows({"items": [one.raw for one in replies]}, [one.value for one in replies], SHEET)


@app.command("list")
def list_slos(
    ctx: typer.Context,
    model: Annotated[
        str | None, typer.Option("--model", help="Only of this model.", autocompletion=completion.models)
    ] = None,
) -> None:
    """List objectives, with what is left of each budget."""
    session = Session.of(ctx)
    session.out.items(session.api.page("/slos", api.alert.Slo, model=model), SHEET)


@app.command("show")
def show(ctx: typer.Context, name: Name) -> None:
    """Show an objective: what is left of its budget, how fast it burns, and how that went."""
    session = Session.of(ctx)
    found = session.api.get(f"/slos/{part(name)}", api.alert.SloDetail)
    if session.out.is_for_eyes:
        show_slo(session.out, found.value)
    else:
        session.out.rows(found.raw, [found.value.slo], SHEET)


@app.command("delete")
def delete(ctx: typer.Context, name: Name) -> None:
    """Delete an objective; what was measured of the model stays."""
    session = Session.of(ctx)
    session.confirm(f"Delete the objective {name}?")
    session.api.delete(f"/slos/{part(name)}")
    session.out.note(f"deleted {name}")


def _put(session: Session, one: SloFile, *, dry_run: bool) -> Reply[api.alert.Slo]:
    path = f"/slos/{part(one.name)}"
    try:
        return session.api.put(f"{path}?dry_run=true" if dry_run else path, written(one.document), api.alert.Slo)
    except ApiError as error:
        if error.foreign_code == BAD_FILE:
            error.why, error.message = one.located(error.why), one.located(error.message)
        raise
