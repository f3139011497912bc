"""`edgectl audit`: who changed what at the server."""

from __future__ import annotations

from datetime import datetime
from itertools import islice, takewhile
from typing import Annotated

import typer

from edgefleet_cli.core import api
from edgefleet_cli.core.options import time_of
from edgefleet_cli.core.session import Session
from edgefleet_cli.core.transport.reply import Page
from edgefleet_cli.render.format import moment, text
from edgefleet_cli.render.output import Column, Sheet

app = typer.Typer(help="Show who changed what, and when.", no_args_is_help=True)

SHEET: Sheet[api.access.Audit] = Sheet(
    "entries of the audit trail",
    [
        Column("id", lambda a: text(a.id), wide=True, right=True),
        Column("at", lambda a: moment(a.at), keep=True),
        Column("actor", lambda a: text(a.actor)),
        Column("action", lambda a: text(a.action)),
        Column("object", lambda a: text(a.object)),
        Column("status", lambda a: text(a.status), right=True),
        Column("request", lambda a: text(a.request_id), wide=True),
    ],
    lambda a: text(a.id),
)


@app.command("list")
def list_entries(
    ctx: typer.Context,
    actor: Annotated[str, typer.Option("--actor", metavar="NAME", help="Only by this token, by name or id.")] = "",
    action: Annotated[str, typer.Option("--action", help="Only this operation, e.g. create_rollout.")] = "",
    on: Annotated[str, typer.Option("--object", metavar="TEXT", help="Only objects whose address contains this.")] = "",
    since: Annotated[
        str | None, typer.Option("--since", metavar="T", help="Only since then: 24h, or RFC 3339.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most this many.")] = 50,
) -> None:
    """List who changed what, newest first; `-o csv` for a spreadsheet."""
    session = Session.of(ctx)
    begin = None if since is None else time_of(since, session.clock.now())
    found = takewhile(
        lambda one: begin is None or _at(one.value) >= begin, session.api.each("/audit", api.access.Audit)
    )
    chosen = (
        one
        for one in found
        if actor in one.value.actor and (not action or one.value.action == action) and on in one.value.object
    )
    session.out.items(Page.of(islice(chosen, limit)), SHEET)


def _at(entry: api.access.Audit) -> datetime:
    return datetime.fromisoformat(entry.at)
