"""`edgectl capture-key`: to whom devices seal what they capture. The private key stays on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgefleet_cli.core import api
from edgefleet_cli.core.session import Session
from edgefleet_cli.core.transport.reply import Reply
from edgefleet_cli.render.format import moment, text
from edgefleet_cli.render.output import Column, Sheet

app = typer.Typer(help="Manage the key that captured records are sealed to.", no_args_is_help=True)

SHEET: Sheet[api.capture.CaptureKey] = Sheet(
    "capture keys; create one with `edgectl capture-key create --out FILE`",
    [
        Column("public key", lambda k: text(k.public_key), keep=True),
        Column("set", lambda k: moment(k.set_at)),
        Column("by", lambda k: text(k.set_by)),
    ],
    lambda k: text(k.public_key),
)


@app.command("create")
def create(
    ctx: typer.Context,
    out: Annotated[
        Path, typer.Option("--out", metavar="FILE", help="File for the private key (mode 0600). Keep it safe.")
    ],
    set_it: Annotated[bool, typer.Option("--set/--no-set", help="Upload the public key.")] = True,
) -> None:
    """Create a key pair here; devices seal records to its public key."""
    from edgefleet_cli.device.captures.capture_files import make_key

    session = Session.of(ctx)
    public = make_key(out)
    if set_it:
        made = session.api.put("/capture-key", api.capture.CaptureKeyIn(public_key=public), api.capture.CaptureKey)
    else:
        made = Reply({"public_key": public}, api.capture.CaptureKey)
    session.out.one(made, SHEET, lambda entry: session.out.line(text(entry.public_key)))
    session.out.note(f"the private key is in {out}: without it nobody can open captured records, not even the server")


@app.command("set")
def set_key(
    ctx: typer.Context, public_key: Annotated[str, typer.Argument(metavar="HEX", help="64 hex digits.")]
) -> None:
    """Set the public key that devices seal to."""
    session = Session.of(ctx)
    made = session.api.put("/capture-key", api.capture.CaptureKeyIn(public_key=public_key), api.capture.CaptureKey)
    session.out.one(made, SHEET, lambda entry: session.out.line(text(entry.public_key)))


@app.command("show")
def show(ctx: typer.Context) -> None:
    """Show the public key that devices seal to."""
    session = Session.of(ctx)
    session.out.one(
        session.api.get("/capture-key", api.capture.CaptureKey), SHEET, lambda k: session.out.line(text(k.public_key))
    )


@app.command("remove")
def remove(ctx: typer.Context) -> None:
    """Remove the key: devices stop capturing. Captured records stay sealed to the old key."""
    session = Session.of(ctx)
    session.confirm("Remove the capture key? Devices stop capturing.")
    session.api.delete("/capture-key")
    session.out.note("removed the capture key")


@app.command("open")
def open_sealed(
    ctx: typer.Context,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder with the .sealed files of `device capture`.")],
    key: Annotated[Path, typer.Option("--key", metavar="FILE", help="The private key.")],
) -> None:
    """Open fetched records on this machine, without a server."""
    from edgefleet_cli.device.captures.capture_files import open_folder, read_key

    session = Session.of(ctx)
    written = open_folder(folder, read_key(key))
    session.out.document(
        {"files": [str(path) for path in written]}, lambda: session.out.line(f"wrote {len(written)} files in {folder}")
    )
