"""`edgectl search`: devices, models, releases, rollouts and groups by a part of their name."""

from __future__ import annotations

from typing import Annotated

import typer

from edgefleet_cli.core import api
from edgefleet_cli.core.session import Session
from edgefleet_cli.render.format import named, text
from edgefleet_cli.render.output import Column, Sheet

_SHOW = {
    "device": "edgectl device show",
    "model": "edgectl model show",
    "release": "edgectl release show",
    "rollout": "edgectl rollout show",
    "group": "edgectl group show",
}
SHEET: Sheet[api.fleet.Hit] = Sheet(
    "results",
    [
        Column("kind", lambda f: text(f.kind), keep=True),
        Column("name", lambda f: named(f.id, f.display_name), keep=True),
        Column("about", lambda f: text(f.detail)),
        Column("see", lambda f: f"{_SHOW[f.kind]} {f.id}" if f.kind in _SHOW else "-"),
    ],
    lambda f: f"{f.kind}/{f.id}",
)


def search(
    ctx: typer.Context,
    words: Annotated[str, typer.Argument(metavar="TEXT", help="A part of a name, an id or a label's value.")],
    limit: Annotated[int | None, typer.Option("--limit", min=1, max=50, help="At most this many of each kind.")] = None,
) -> None:
    """Find devices, models, releases, rollouts and groups by name."""
    session = Session.of(ctx)
    session.out.items(session.api.page("/search", api.fleet.Hit, q=words, limit=limit), SHEET)
