"""`edgectl events` and `edgectl fleet summary`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from edgefleet_cli.figures import pairs, text
from edgefleet_cli.output import Column, Sheet
from edgefleet_cli.session import Session

app = typer.Typer(help="The fleet as a whole.", no_args_is_help=True)


def _what(event: dict[str, Any]) -> str:
    """Return an event in a few words: release, phase, error and reason; what is left out is in `-o wide` and `-o json`."""
    detail = event.get("detail") or {}
    target = str(detail.get("target") or "")
    words = ["@".join(target.split("/")[:2]) if target.count("/") == 2 else "", detail.get("phase")]
    words += [detail.get("error_class"), detail.get("code")]
    told = " ".join(str(word) for word in words if word)
    reason = detail.get("reason")
    return f"{told}: {reason}" if told and reason else str(reason or told or "-")


SHEET = Sheet(
    "events",
    [
        Column("at", lambda e: text(e.get("at"))[:19], keep=True),
        Column("kind", lambda e: text(e.get("kind"))),
        Column("device", lambda e: text(e.get("device"))),
        Column("model", lambda e: text(e.get("model"))),
        Column("what", _what),
        Column("detail", lambda e: pairs(e.get("detail")), wide=True),
        Column("received", lambda e: text(e.get("received_at"))[:19], wide=True),
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
    """Show counts of devices by status, profile and model version."""
    session = Session.of(ctx)
    figures = session.api.get("/fleet/summary")
    session.out.document(figures, lambda: _show(session, figures))


MODELS = [
    Column("model", lambda m: text(m.get("model"))),
    Column("version", lambda m: text(m.get("version"))),
    Column("state", lambda m: text(m.get("state"))),
    Column("devices", lambda m: text(m.get("devices")), right=True),
]


def _show(session: Session, figures: dict[str, Any]) -> None:
    session.out.fields(
        [
            ("devices", text(figures.get("devices"))),
            ("status", pairs(figures.get("status"))),
            ("profiles", pairs(figures.get("profiles"))),
        ]
    )
    if figures.get("models"):
        session.out.heading("Models")
        session.out.table(figures["models"], MODELS)
