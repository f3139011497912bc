"""`edgectl profile`: what each kind of hardware can."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from edgefleet_cli import completion
from edgefleet_cli.figures import flat_fields, text
from edgefleet_cli.output import Column, Sheet
from edgefleet_cli.session import Session

app = typer.Typer(help="Hardware profiles: what a board with a runtime can take.", no_args_is_help=True)


def _runtime(profile: dict[str, Any]) -> str:
    runtime = profile.get("runtime")
    if isinstance(runtime, dict):
        return f"{runtime.get('name')} {runtime.get('version')}"
    return text(runtime)


SHEET = Sheet(
    "profiles",
    [
        Column("name", lambda p: text(p.get("name")), keep=True),
        Column("arch", lambda p: text(p.get("arch"))),
        Column("runtime", _runtime),
        Column("title", lambda p: text(p.get("title"))),
    ],
    lambda p: text(p.get("name")),
)


@app.command("list")
def list_profiles(ctx: typer.Context) -> None:
    """List the profiles the server knows."""
    session = Session.of(ctx)
    session.out.items(session.api.pages("/profiles"), SHEET)


@app.command("show")
def show(
    ctx: typer.Context, name: Annotated[str, typer.Argument(metavar="NAME", autocompletion=completion.profiles)]
) -> None:
    """Show a profile with all its facts."""
    from edgefleet_cli.api_client import part

    session = Session.of(ctx)
    profile = session.api.get(f"/profiles/{part(name)}")
    session.out.one(profile, SHEET, lambda entry: session.out.fields(flat_fields(entry)))
