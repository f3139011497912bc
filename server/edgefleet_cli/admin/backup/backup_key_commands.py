"""`edgectl server backup-key`: the key pair that backups are sealed to (ADR 0155)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgefleet_cli.admin.backup.backup_process import run
from edgefleet_cli.core.session import Session
from edgefleet_cli.core.subprocesses import child_flags

app = typer.Typer(help="Make the key pair that backups are sealed to.", no_args_is_help=True)


@app.command("create")
def create(
    ctx: typer.Context,
    out: Annotated[
        Path, typer.Option("--out", metavar="FILE", help="File for the identity, which opens backups. Keep it offline.")
    ],
    recipient: Annotated[
        Path | None,
        typer.Option(
            "--recipient", metavar="FILE", help="File for the recipient; default: that of --out with .recipient."
        ),
    ] = None,
) -> None:
    """Make a key pair: backups are sealed to the recipient, and only the identity opens them."""
    session = Session.of(ctx)
    other = recipient or out.with_name(f"{out.name}.recipient")
    found, _ = run(session, "new-key", child_flags(out=out.absolute(), recipient=other.absolute()))

    def show() -> None:
        session.out.fields([("key", found["key"]), ("identity", found["identity"]), ("recipient", found["recipient"])])
        session.out.line(
            f"next: move {out.name} off this machine, without it no backup opens; {other.name} stays: `server backup --recipient`"
        )

    session.out.facts(found, show)
