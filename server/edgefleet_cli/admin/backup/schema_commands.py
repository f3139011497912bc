"""`edgectl server upgrade-schema`: bring the database to this version's schema, before its servers start (ADR 0158)."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from edgefleet_cli.admin.backup.backup_options import Data
from edgefleet_cli.admin.backup.backup_process import run
from edgefleet_cli.admin.data_folder import default_data
from edgefleet_cli.core.session import Session
from edgefleet_cli.core.subprocesses import child_flags
from edgefleet_cli.render.format import duration
from edgefleet_cli.render.output import Column

MODULE = "edgefleet_server.process.schema_upgrade"
_STEPS: list[Column[dict[str, Any]]] = [
    Column("step", lambda s: s["number"], keep=True),
    Column("what", lambda s: s["name"], keep=True),
    Column("took", lambda s: "-" if s["elapsed_s"] is None else duration(s["elapsed_s"]), right=True),
]

Database = Annotated[
    str | None, typer.Option("--db", metavar="URL", help="Database URL; default: the one of the server's settings.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only show which steps would be taken.")]


def upgrade_schema(ctx: typer.Context, data: Data = None, db: Database = None, dry_run: DryRun = False) -> None:
    """Bring the database to the schema of this version. Needs no keys; a second one waits for the first. Back up before."""
    session = Session.of(ctx)
    flags = child_flags(data=(data or default_data()).absolute(), db=db) + ["--dry-run"] * dry_run
    found, code = run(session, "upgrade-schema", flags, MODULE)

    def show() -> None:
        if found["steps"]:
            session.out.table(found["steps"], _STEPS)
        session.out.line(_summary(found))

    session.out.facts(found, show)
    if code:
        raise typer.Exit(code)


def _summary(found: dict[str, Any]) -> str:
    count, target = len(found["steps"]), found["to"]
    if not count:
        return f"The schema of the database is {target}, the newest that this version knows."
    number = f"{count} step" if count == 1 else f"{count} steps"
    before = f"from schema {found['from']}" if found["from"] else "from an empty database"
    if found["is_dry_run"]:
        return f"{number} would be taken, {before} to {target}. Nothing was changed. Back up, then run it without --dry-run."
    return f"{number} taken in {duration(found['elapsed_s'])}, {before} to {target}."
