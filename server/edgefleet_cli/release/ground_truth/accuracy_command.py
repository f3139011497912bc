"""`edgectl model accuracy`: what labels say of a model in the field."""

from __future__ import annotations

from typing import Annotated

import typer

from edgefleet_cli.core import api, completion
from edgefleet_cli.core.session import Session
from edgefleet_cli.core.transport.request import part
from edgefleet_cli.release.ground_truth.render import LINES, show_accuracy

Model = Annotated[str, typer.Argument(metavar="MODEL", autocompletion=completion.models)]


def accuracy(
    ctx: typer.Context,
    name: Model,
    by: Annotated[
        str,
        typer.Option(
            "--by",
            metavar="WHAT",
            help="all, release, group, segment, site or profile.",
            autocompletion=completion.accuracy_lines,
        ),
    ] = "release",
    version: Annotated[
        str | None,
        typer.Option(
            "--version", metavar="V", help="Version or alias; default: all.", autocompletion=completion.versions
        ),
    ] = None,
    since: Annotated[
        str | None, typer.Option("--since", metavar="T", help="Beginning: 7d ago, or RFC 3339; default: 30d.")
    ] = None,
    until: Annotated[
        str | None, typer.Option("--until", metavar="T", help="End: 1d ago, or RFC 3339; default: now.")
    ] = None,
) -> None:
    """Show how often labelled answers are right in the field, with intervals, over time; business figures, too."""
    from edgefleet_cli.core.options import time_of

    session = Session.of(ctx)
    now = session.clock.now()
    found = session.api.get(
        f"/models/{part(name)}/accuracy",
        api.model.ModelAccuracy,
        by=by,
        version=version,
        since=None if since is None else time_of(since, now).isoformat(),
        until=None if until is None else time_of(until, now).isoformat(),
    )
    if session.out.is_for_eyes:
        show_accuracy(session.out, found.value)
    else:
        session.out.rows(found.raw, found.value.lines, LINES)
