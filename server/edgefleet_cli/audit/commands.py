"""`edgectl audit`: who changed what at the server, and whether the trail of it is whole."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer

from edgefleet_cli.core import api
from edgefleet_cli.core.options import time_of
from edgefleet_cli.core.session import Session
from edgefleet_cli.core.transport.reply import Page
from edgefleet_cli.render.format import moment, text
from edgefleet_cli.render.output import Column, Sheet

app = typer.Typer(help="Show who changed what, and prove that nothing of it was changed.", no_args_is_help=True)

NOT_WHOLE = 1
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
        Column("n", lambda a: text(a.n), wide=True, right=True),
        Column("hash", lambda a: text(a.hash), wide=True),
    ],
    lambda a: text(a.id),
)
HEADS: Sheet[api.access.AuditHead] = Sheet(
    "heads of the audit trail",
    [
        Column("entries", lambda h: text(h.size), right=True),
        Column("at", lambda h: moment(h.at), keep=True),
        Column("root", lambda h: text(h.root[:16])),
        Column("whole root", lambda h: text(h.root), wide=True),
        Column("chain", lambda h: text(h.chain), wide=True),
    ],
    lambda h: text(h.size),
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
    until: Annotated[str | None, typer.Option("--until", metavar="T", help="Only before then, as --since.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most this many.")] = 50,
) -> None:
    """List who changed what, newest first; `-o csv` for a spreadsheet, `-o wide` with numbers and hashes."""
    session = Session.of(ctx)
    now = session.clock.now()
    begin = None if since is None else time_of(since, now)
    end = None if until is None else time_of(until, now)
    found = session.api.each(
        "/audit", api.access.Audit, action=action or None, since=_written(begin), until=_written(end)
    )
    chosen = (
        one
        for one in found
        if actor in one.value.actor
        and (not action or one.value.action == action)
        and on in one.value.object
        and (begin is None or _at(one.value) >= begin)
        and (end is None or _at(one.value) < end)
    )
    session.out.items(Page.of(islice(chosen, limit)), SHEET)


@app.command("heads")
def list_heads(
    ctx: typer.Context, limit: Annotated[int, typer.Option("--limit", min=1, help="At most this many.")] = 50
) -> None:
    """List the heads, newest first: one an hour in which something was written."""
    session = Session.of(ctx)
    session.out.items(session.api.pages("/audit/heads", api.access.AuditHead, limit=limit), HEADS)


@app.command("export")
def export(
    ctx: typer.Context,
    out: Annotated[
        Path,
        typer.Option("--out", metavar="FILE", help="One JSON object a line. A file that is there is gone on with."),
    ],
) -> None:
    """Write all entries with their hashes to a file. What was interrupted goes on where it stopped."""
    from edgefleet_cli.audit.trail import entries_text, export_to

    session = Session.of(ctx)
    begin, last = export_to(session, out)
    session.out.document(
        {"file": str(out), "entries": last, "new": last - begin},
        lambda: session.out.line(f"{entries_text(last)} in {text(out)}"),
    )


@app.command("verify")
def verify(
    ctx: typer.Context,
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="An export; without one all entries are fetched.")
    ] = None,
    proof: Annotated[
        Path | None, typer.Option("--proof", metavar="FILE", help="Check this proof of one entry; asks no server.")
    ] = None,
    root_sha256: Annotated[
        str, typer.Option("--root-sha256", metavar="HEX", help="With --proof: a root of trust to go by.")
    ] = "",
) -> None:
    """Check that no entry was changed, removed, swapped or added, by what TUF publishes and this machine saw. Exit code 1 if not."""
    from edgefleet_cli.audit.trail import show_check, verify_proof, verify_trail

    session = Session.of(ctx)
    if proof is not None:
        verify_proof(session, proof, root_sha256)
        return
    checked = verify_trail(session, file)
    show_check(session, checked)
    if not checked.is_whole:
        raise typer.Exit(NOT_WHOLE)


@app.command("prove")
def prove(
    ctx: typer.Context,
    n: Annotated[int, typer.Argument(metavar="N", min=1, help="Number of the entry: `-o wide` of the list has it.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Where to write the proof.")],
) -> None:
    """Write a proof that one entry is in the trail, which anybody checks without a server: `edgectl audit verify --proof FILE`."""
    from edgefleet_cli.audit.trail import prove_entry

    prove_entry(Session.of(ctx), n, out)


def _written(at: datetime | None) -> str | None:
    return None if at is None else at.astimezone(UTC).isoformat()


def _at(entry: api.access.Audit) -> datetime:
    return datetime.fromisoformat(entry.at)
