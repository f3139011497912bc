"""`edgectl model`: named lines of releases."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from edgefleet_cli import completion
from edgefleet_cli.figures import moment, text
from edgefleet_cli.output import Column, Sheet
from edgefleet_cli.release_view import RELEASES
from edgefleet_cli.session import Session

app = typer.Typer(help="Models: named lines of releases.", no_args_is_help=True)


SHEET = Sheet(
    "models; publish one with `edgectl publish MODEL --name N --version V`",
    [
        Column("name", lambda m: text(m.get("name")), keep=True),
        Column("releases", lambda m: text(m.get("releases")), right=True),
        Column("latest", lambda m: text(m.get("latest"))),
        Column("state", lambda m: text(m.get("latest_state"))),
        Column("created", lambda m: moment(m.get("created_at"))),
    ],
    lambda m: text(m.get("name")),
)


@app.command("list")
def list_models(ctx: typer.Context) -> None:
    """List all models."""
    session = Session.of(ctx)
    session.out.items(session.api.pages("/models"), SHEET)


@app.command("show")
def show(
    ctx: typer.Context, name: Annotated[str, typer.Argument(metavar="NAME", autocompletion=completion.models)]
) -> None:
    """Show a model and its releases."""
    from edgefleet_cli.api_client import part

    session = Session.of(ctx)
    model = session.api.get(f"/models/{part(name)}")

    def for_eyes(entry: dict[str, Any]) -> None:
        session.out.fields((column.header, column.cell(entry)) for column in SHEET.columns)
        session.out.heading("Releases")
        session.out.items(session.api.pages("/releases", model=name), RELEASES)

    session.out.one(model, SHEET, for_eyes)
