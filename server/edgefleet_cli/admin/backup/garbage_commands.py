"""`edgectl server garbage-collect`: find, and remove where asked, blobs that nothing names (ADR 0159)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final

import typer

from edgefleet_cli.admin.backup.backup_process import run
from edgefleet_cli.admin.data_folder import default_data
from edgefleet_cli.core.session import Session
from edgefleet_cli.core.subprocesses import child_flags
from edgefleet_cli.render.format import counted, duration, size
from edgefleet_cli.render.output import Column

_WHAT: Final = (
    ("due", "unnamed long enough: --delete removes"),
    ("waiting", "unnamed, marked or to be marked"),
    ("young", "unnamed, used lately: left alone"),
    ("strays", "no record: --delete --strays removes"),
    ("unfinished", "uploads cut off: --delete ends them"),
)
_SHEET: list[Column[dict[str, Any]]] = [
    Column("blobs", lambda r: r["what"], keep=True),
    Column("count", lambda r: f"{r['count']:,}", right=True, keep=True),
    Column("size", lambda r: size(r["bytes"]) if "bytes" in r else "-", right=True),
    Column("oldest", lambda r: (r["oldest"] or "-")[:10]),
    Column("means", lambda r: r["means"]),
]
Data = Annotated[
    Path | None,
    typer.Option("--data", metavar="DIR", help="Data folder of the server; default: in the user's data folder."),
]
Delete = Annotated[
    bool,
    typer.Option("--delete", help="Mark what nothing names, and remove what has been marked for the grace period."),
]
Strays = Annotated[
    bool,
    typer.Option("--strays", help="Also remove bytes without a record. Never where two servers share one blob store."),
]
Grace = Annotated[
    int,
    typer.Option("--grace-days", min=1, metavar="N", help="Leave what was uploaded or marked in the last N days."),
]


def garbage_collect(
    ctx: typer.Context, data: Data = None, delete: Delete = False, strays: Strays = False, grace_days: Grace = 7
) -> None:
    """List blobs that nothing names any more; --delete removes them. The server may run. Exit code 1: some could not be removed."""
    session = Session.of(ctx)
    flags = child_flags(data=(data or default_data()).absolute(), grace_days=grace_days)
    found, code = run(session, "garbage-collect", flags + ["--delete"] * delete + ["--strays"] * strays)
    rows = [{"what": what, "means": means, **found[what]} for what, means in _WHAT]

    def show() -> None:
        stored = found["blobs"]
        session.out.line(
            f"{counted(stored['count'], 'blob')}, {size(stored['bytes'])}; grace {found['grace_days']:g} days"
        )
        session.out.table(rows, _SHEET)
        if not found["is_dry_run"]:
            session.out.fields(
                [
                    ("deleted", _amount(found["deleted"])),
                    ("strays deleted", _amount(found["strays_deleted"])),
                    ("uploads ended", f"{found['unfinished']['ended']:,}"),
                    ("marked now", f"{found['marked']:,}"),
                    ("failed", f"{found['failed']:,}"),
                    ("took", duration(found["elapsed_s"])),
                ]
            )

    session.out.facts(found, show)
    if found["unfinished"]["unchecked"]:
        session.out.note(f"{found['unfinished']['unchecked']}; {found['unfinished']['next']}")
    if found["is_dry_run"]:
        session.out.note("nothing was changed; --delete marks what is unnamed, and removes what is due")
    elif found["next_due"]:
        session.out.note(f"the next are due at {found['next_due'][:16].replace('T', ' ')} UTC: run it again then")
    if code:
        raise typer.Exit(code)


def _amount(part: dict[str, Any]) -> str:
    return f"{part['count']:,} ({size(part['bytes'])})"
