"""`edgectl context`: saved servers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgefleet_cli.admin.access.login_commands import server_url
from edgefleet_cli.core import completion
from edgefleet_cli.core.contexts import Context
from edgefleet_cli.core.errors import UsageError
from edgefleet_cli.core.session import Session
from edgefleet_cli.core.structs import Struct
from edgefleet_cli.core.transport.reply import reply_of
from edgefleet_cli.render.format import text
from edgefleet_cli.render.output import Column, Sheet

app = typer.Typer(help="Manage saved servers.", no_args_is_help=True)


class Saved(Struct, frozen=True):
    """A saved context without its token."""

    name: str
    server: str
    logged_in: bool
    ca_file: str | None
    current: bool


Name = Annotated[str, typer.Argument(metavar="NAME", autocompletion=completion.contexts)]

SHEET: Sheet[Saved] = Sheet(
    "contexts",
    [
        Column("current", lambda item: "*" if item.current else ""),
        Column("name", lambda item: text(item.name), keep=True),
        Column("server", lambda item: text(item.server)),
        Column("logged in", lambda item: text(item.logged_in)),
        Column("ca file", lambda item: text(item.ca_file), wide=True),
    ],
    lambda item: item.name,
)


@app.command("list")
def list_contexts(ctx: typer.Context) -> None:
    """List saved contexts; tokens are never printed."""
    session = Session.of(ctx)
    file = session.contexts
    items = [reply_of(_public(context, file.current)) for _, context in sorted(file.contexts.items())]
    session.out.rows({"items": [item.raw for item in items]}, [item.value for item in items], SHEET)


@app.command("use")
def use(ctx: typer.Context, name: Name) -> None:
    """Make a saved context the current one."""
    session = Session.of(ctx)
    found = session.contexts.get(name)
    assert found is not None
    session.contexts.put(found, make_current=True)
    session.out.note(f"now using {found.name} at {found.server}")


@app.command("add")
def add(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME")],
    ca: Annotated[Path | None, typer.Option("--ca", help="CA certificate of the server's TLS.")] = None,
) -> None:
    """Save the server given with --server (and the token given with --token) under a name."""
    session = Session.of(ctx)
    if session.options.server is None:
        raise UsageError(
            "the server is missing",
            why="a context needs an address",
            next_step=f"`edgectl context add {name} --server URL`",
        )
    ca_file = None if ca is None else str(ca.resolve())
    saved = Context(name, server_url(session.options.server), session.options.token, ca_file)
    session.contexts.put(saved, make_current=False)
    session.out.note(f"saved {name}; switch to it with `edgectl context use {name}`")


@app.command("remove")
def remove(ctx: typer.Context, name: Name) -> None:
    """Remove a saved context and its token."""
    session = Session.of(ctx)
    session.contexts.get(name)
    session.confirm(f"Remove the context {name} and its token?")
    session.contexts.remove(name)
    session.out.note(f"removed {name}")


@app.command("show")
def show(
    ctx: typer.Context,
    name: Annotated[str | None, typer.Argument(metavar="NAME", autocompletion=completion.contexts)] = None,
) -> None:
    """Show one context, the current one by default."""
    session = Session.of(ctx)
    found = session.contexts.get(name or session.options.context)
    if found is None:
        raise UsageError("there is no current context", why="none is saved", next_step="run `edgectl login URL`")
    item = reply_of(_public(found, session.contexts.current))
    session.out.one(
        item,
        SHEET,
        lambda _: session.out.fields((key.replace("_", " "), text(value)) for key, value in item.raw.items()),
    )


def _public(context: Context, current: str | None) -> Saved:
    return Saved(context.name, context.server, context.token is not None, context.ca_file, context.name == current)
