"""`edgectl search`: devices, models, releases, rollouts and groups by a part of their name."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from edgefleet_cli.core.session import Session
from edgefleet_cli.render.format import text
from edgefleet_cli.render.output import Column, Sheet

Json = dict[str, Any]

_SHOW = {
    "device": "edgectl device show",
    "model": "edgectl model show",
    "release": "edgectl release show",
    "rollout": "edgectl rollout show",
    "group": "edgectl group show",
}
SHEET = Sheet(
    "things of that name",
    [
        Column("kind", lambda f: text(f.get("kind")), keep=True),
        Column("name", lambda f: text(f.get("id")), keep=True),
        Column("about", lambda f: text(f.get("detail"))),
        Column("see", lambda f: f"{_SHOW[f['kind']]} {f['id']}" if f.get("kind") in _SHOW else "-"),
    ],
    lambda f: f"{f.get('kind')}/{f.get('id')}",
)


def search(
    ctx: typer.Context,
    words: Annotated[str, typer.Argument(metavar="TEXT", help="A part of a name, an id or a label's value.")],
    limit: Annotated[int | None, typer.Option("--limit", min=1, max=50, help="At most this many of each kind.")] = None,
) -> None:
    """Find devices, models, releases, rollouts and groups by a part of their name."""
    session = Session.of(ctx)
    session.out.items(session.api.get("/search", q=words, limit=limit), SHEET)
