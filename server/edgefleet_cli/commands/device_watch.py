"""`edgectl device watch`: what a device answers, live."""

from __future__ import annotations

from typing import Annotated

import typer

from edgefleet_cli import completion
from edgefleet_cli.errors import EXIT_OK, EXIT_TIMEOUT
from edgefleet_cli.session import Session


def add_watch_command(app: typer.Typer) -> None:
    """Put the command into `edgectl device`."""
    app.command("watch")(watch)


def watch(
    ctx: typer.Context,
    device_id: Annotated[str, typer.Argument(metavar="ID", help="Device id.", autocompletion=completion.devices)],
    model: Annotated[str, typer.Option("--model", help="Of this model only.")] = "",
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Stop after so many.")] = None,
) -> None:
    """Show what a device answers, as it answers: labels, latency, trace ids, and never what it was asked.

    A sample of the newest answers every two seconds, without end (or until --timeout: exit 8). It may take some seconds to begin.
    """
    from edgefleet_cli.watching import watch_device

    is_done = watch_device(Session.of(ctx), device_id, model=model, limit=limit)
    raise typer.Exit(EXIT_OK if is_done else EXIT_TIMEOUT)
