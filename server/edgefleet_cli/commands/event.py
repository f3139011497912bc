"""`edgectl events` and `edgectl fleet summary`."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from edgefleet_cli.figures import pairs, text
from edgefleet_cli.output import Column, Sheet
from edgefleet_cli.session import Session

app = typer.Typer(help="The fleet as a whole.", no_args_is_help=True)


def _detail(event: dict[str, Any]) -> str:
    detail = event.get("detail") or event.get("data") or event.get("message")
    return pairs(detail) if isinstance(detail, dict) else text(detail)


SHEET = Sheet(
    "events",
    [
        Column("at", lambda e: text(e.get("at") or e.get("time") or e.get("created_at"))[:19], keep=True),
        Column("type", lambda e: text(e.get("type") or e.get("kind") or e.get("action"))),
        Column("device", lambda e: text(e.get("device") or e.get("device_id"))),
        Column("actor", lambda e: text(e.get("actor")), wide=True),
        Column("subject", lambda e: text(e.get("subject") or e.get("release") or e.get("object"))),
        Column("detail", _detail),
    ],
    lambda e: text(e.get("id")),
)


def events(
    ctx: typer.Context,
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most this many.")] = 50,
    since: Annotated[str | None, typer.Option("--since", help="Only events after this time (RFC 3339).")] = None,
) -> None:
    """List what happened, newest first."""
    session = Session.of(ctx)
    session.out.items(session.api.pages("/events", limit=limit, since=since), SHEET)


@app.command("summary")
def summary(ctx: typer.Context) -> None:
    """Show counts of devices by state, profile and release."""
    session = Session.of(ctx)
    figures = session.api.get("/fleet/summary")
    session.out.document(figures, lambda: session.out.fields((key, _figure(item)) for key, item in figures.items()))


def _figure(value: Any) -> str:
    if isinstance(value, dict):
        return pairs(value)
    return json.dumps(value) if isinstance(value, list) else text(value)
