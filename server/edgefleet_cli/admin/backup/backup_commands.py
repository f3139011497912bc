"""`edgectl server backup`, `verify-backup` and `restore`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from edgefleet_cli.admin.backup.backup_process import run
from edgefleet_cli.admin.data_folder import data_flag, default_data
from edgefleet_cli.core.session import Session
from edgefleet_cli.core.subprocesses import child_flags
from edgefleet_cli.render.format import duration, size

Data = Annotated[
    Path | None,
    typer.Option("--data", metavar="DIR", help="Data folder of the server; default: in the user's data folder."),
]
Where = Annotated[
    str, typer.Argument(metavar="WHERE", help="Folder, FILE.tar, or a bucket: s3://NAME/PATH, gs://…, az://….")
]
Passphrase = Annotated[
    Path | None,
    typer.Option(
        "--keys-passphrase-file", metavar="FILE", help="Passphrase that seals the keys: the first line of FILE."
    ),
]
WithoutKeys = Annotated[bool, typer.Option("--without-keys", help="Leave the keys out: you keep them elsewhere.")]
Keep = Annotated[
    int | None, typer.Option("--keep", metavar="N", min=1, help="Then remove all but the newest N backups there.")
]
Name = Annotated[str | None, typer.Option("--backup", metavar="NAME", help="Which backup; default: the newest.")]
Deep = Annotated[
    bool, typer.Option("--deep", help="Also restore the database for trial, and check audit trail and signatures.")
]
Database = Annotated[
    str | None,
    typer.Option("--db", metavar="URL", help="Empty PostgreSQL database to restore into; default: SQLite in DIR."),
]
BlobUrl = Annotated[
    str | None, typer.Option("--blob-url", metavar="URL", help="Where blobs go; default: a folder in DIR.")
]


def backup(
    ctx: typer.Context,
    where: Where,
    data: Data = None,
    keys_passphrase_file: Passphrase = None,
    without_keys: WithoutKeys = False,
    keep: Keep = None,
) -> None:
    """Back up a server while it runs: database, blobs that WHERE lacks, keys and settings."""
    session = Session.of(ctx)
    flags = child_flags(
        data=data or default_data(), to=_place(where), keep=keep, keys_passphrase_file=keys_passphrase_file
    )
    found, code = run(session, "backup", flags + ["--without-keys"] * without_keys)

    def show() -> None:
        session.out.fields(
            [
                ("backup", found["backup"]),
                ("rows", f"{found['rows']:,}"),
                (
                    "blobs",
                    f"{found['blobs']:,}, of which {found['copied']:,} were copied now ({size(found['copied_bytes'])})",
                ),
                ("size", size(found["bytes"])),
                ("keys", found["keys"]),
                ("manifest", f"sha256 {found['manifest']}"),
                ("took", duration(found["elapsed_s"])),
            ]
        )

    session.out.facts(found, show)
    if found["keys"] == "plain":
        session.out.notice(
            "the keys lie in plain in this backup: anyone who can read it can sign for every device; --keys-passphrase-file seals them"
        )
    _tell_missing(session, found)
    if code:
        raise typer.Exit(code)


def verify_backup(
    ctx: typer.Context,
    where: Where,
    name: Name = None,
    keys_passphrase_file: Passphrase = None,
    deep: Deep = False,
) -> None:
    """Check that a backup is whole: each file by its digest, each table by count and sum. Exit code 1: it is not."""
    session = Session.of(ctx)
    flags = child_flags(backup=name, keys_passphrase_file=keys_passphrase_file)
    found, code = run(session, "verify", [*flags, "--from", _place(where), *["--deep"] * deep])

    def show() -> None:
        session.out.fields(
            [
                ("backup", f"{found['backup']}, {len(found['backups'])} there"),
                ("taken", found["taken_at"]),
                ("of", f"edgefleet {found['version']}, schema {found['schema']}, {found['from']}"),
                ("rows", f"{found['rows']:,}"),
                ("blobs", f"{found['blobs']:,}"),
                ("size", size(found["bytes"])),
                (
                    "keys",
                    found["keys"]
                    + ("" if found["keys_opened"] or found["keys"] == "none" else ", not opened: no passphrase given"),
                ),
                (
                    "checked",
                    "files, tables, trial restore, audit trail, signatures" if found["is_deep"] else "files, tables",
                ),
                ("result", "whole" if not found["problems"] else f"{len(found['problems'])} problems"),
            ]
        )
        for problem in found["problems"]:
            session.out.line(f"problem: {problem}")

    session.out.facts(found, show)
    if code:
        raise typer.Exit(code)


def restore(
    ctx: typer.Context,
    where: Where,
    data: Data = None,
    name: Name = None,
    db: Database = None,
    blob_url: BlobUrl = None,
    keys_passphrase_file: Passphrase = None,
) -> None:
    """Restore a server from a backup into a new data folder; the same command goes on after a crash."""
    session = Session.of(ctx)
    chosen = (data or default_data()).absolute()
    flags = child_flags(data=chosen, backup=name, db=db, blob_url=blob_url, keys_passphrase_file=keys_passphrase_file)
    found, code = run(session, "restore", [*flags, "--from", _place(where)])

    def show() -> None:
        session.out.fields(
            [
                ("restored", f"{found['backup']} into {found['data']}"),
                ("rows", f"{found['rows']:,}, each compared with the backup"),
                ("blobs", f"{found['blobs']:,}"),
                ("database", found["database"]),
                ("took", duration(found["elapsed_s"])),
            ]
        )
        if found["keys"] == "none":
            session.out.line("next: copy the keys, which this backup does not have, to " + f"{found['data']}/keys")
        flag = data_flag(chosen)
        session.out.line(
            f"next: `edgectl server check{flag}`; start it under its old names and ports; then `edgectl server restored`"
        )

    session.out.facts(found, show)
    _tell_missing(session, found)
    if code:
        raise typer.Exit(code)


def _place(where: str) -> str:
    """Return a place as the process takes it: paths absolute."""
    return where if "://" in where else str(Path(where).absolute())


def _tell_missing(session: Session, found: dict[str, Any]) -> None:
    if found["missing_blobs"]:
        session.out.notice(
            f"{len(found['missing_blobs'])} blobs are missing: the server had lost them before; publish those releases again"
        )
