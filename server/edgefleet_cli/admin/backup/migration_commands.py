"""`edgectl server migrate`: take a server from SQLite to PostgreSQL, or its blobs to a bucket, with its devices attached (ADR 0152)."""

from __future__ import annotations

from typing import Annotated

import typer

from edgefleet_cli.admin.backup.backup_options import Data
from edgefleet_cli.admin.backup.backup_process import run
from edgefleet_cli.admin.data_folder import data_flag, default_data
from edgefleet_cli.core.session import Session
from edgefleet_cli.core.subprocesses import child_flags
from edgefleet_cli.render.format import duration

To = Annotated[
    str | None, typer.Option("--to", metavar="URL", help="Empty database: postgresql+psycopg://USER@HOST/NAME.")
]
Blobs = Annotated[
    str | None, typer.Option("--blobs", metavar="URL", help="Store for the blobs: s3://NAME/PATH, file:///….")
]
Replace = Annotated[
    bool,
    typer.Option(
        "--replace-unstorable", help="Write U+FFFD for NUL in texts and null for NaN in JSON, which PostgreSQL refuses."
    ),
]


def migrate(
    ctx: typer.Context, data: Data = None, to: To = None, blobs: Blobs = None, replace: Replace = False
) -> None:
    """Move a server from SQLite to PostgreSQL, its blobs to a bucket, or both. Stop it first; blobs can be copied before that."""
    session = Session.of(ctx)
    chosen = (data or default_data()).absolute()
    flags = child_flags(data=chosen, to=to, blobs=blobs)
    found, code = run(session, "migrate", flags + ["--replace-unstorable"] * replace)

    def show() -> None:
        facts = [("blobs copied", f"{found['blobs']:,}"), ("took", duration(found["elapsed_s"]))]
        if "rows" in found:
            facts.insert(0, ("rows", f"{found['rows']:,} in {found['tables']} tables, compared on both sides"))
        session.out.fields(facts)
        if not found["is_done"]:
            session.out.line(
                "the server runs: its blobs are copied ahead; next: stop it and run the same command again"
            )
            return
        session.out.line(
            f"next: `edgectl server start{data_flag(chosen)}`; settings of before: {chosen}/server.toml.before-migration"
        )

    session.out.facts(found, show)
    if found.get("replaced"):
        session.out.notice(f"{found['replaced']:,} values were changed so that PostgreSQL can store them")
    if code:
        raise typer.Exit(code)
