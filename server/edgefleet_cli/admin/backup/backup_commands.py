"""`edgectl server backup`, `verify-backup` and `restore`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from edgefleet_cli.admin.backup.backup_options import (
    BucketSettings,
    Data,
    IdentityFile,
    Name,
    OriginFile,
    Passphrase,
    RecipientFile,
    Where,
    check_one,
    place_of,
)
from edgefleet_cli.admin.backup.backup_process import run
from edgefleet_cli.admin.data_folder import data_flag, default_data
from edgefleet_cli.core.session import Session
from edgefleet_cli.core.subprocesses import child_flags
from edgefleet_cli.render.format import counted, duration, size

WithoutKeys = Annotated[bool, typer.Option("--without-keys", help="Leave the keys out: you keep them elsewhere.")]
Keep = Annotated[
    int | None, typer.Option("--keep", metavar="N", min=1, help="Then remove all but the newest N backups there.")
]
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


def backup(  # noqa: PLR0913, PLR0917 - the flags of the command
    ctx: typer.Context,
    where: Where,
    data: Data = None,
    recipient: RecipientFile = None,
    keys_passphrase_file: Passphrase = None,
    without_keys: WithoutKeys = False,
    keep: Keep = None,
    bucket_settings: BucketSettings = None,
) -> None:
    """Back up a server while it runs: database, blobs that WHERE lacks, keys and settings."""
    session = Session.of(ctx)
    check_one(recipient=recipient, keys_passphrase_file=keys_passphrase_file, without_keys=without_keys)
    flags = child_flags(
        data=data or default_data(),
        to=place_of(where),
        keep=keep,
        recipient=recipient,
        keys_passphrase_file=keys_passphrase_file,
        bucket_settings=bucket_settings,
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
                ("keys", _keys_in_words(found)),
                ("manifest", f"sha256 {found['manifest']}"),
                ("took", duration(found["elapsed_s"])),
            ]
        )

    session.out.facts(found, show)
    if found["keys"] == "plain":
        session.out.notice(
            "the keys lie in plain: anyone who can read them can sign for every device; --recipient or --keys-passphrase-file seals them"
        )
    _tell_missing(session, found)
    if code:
        raise typer.Exit(code)


def verify_backup(  # noqa: PLR0913, PLR0917 - the flags of the command
    ctx: typer.Context,
    where: Where,
    name: Name = None,
    recipient: OriginFile = None,
    identity: IdentityFile = None,
    keys_passphrase_file: Passphrase = None,
    deep: Deep = False,
    bucket_settings: BucketSettings = None,
) -> None:
    """Check that a backup is whole: each file by its digest, each table by count and sum. Exit code 1: it is not."""
    session = Session.of(ctx)
    check_one(recipient=recipient, identity=identity, keys_passphrase_file=keys_passphrase_file)
    flags = child_flags(
        backup=name,
        recipient=recipient,
        identity=identity,
        keys_passphrase_file=keys_passphrase_file,
        bucket_settings=bucket_settings,
    )
    found, code = run(session, "verify", [*flags, "--from", place_of(where), *["--deep"] * deep])

    def show() -> None:
        session.out.fields(
            [
                ("backup", f"{found['backup']}, {len(found['backups'])} there"),
                ("taken", found["taken_at"]),
                ("of", f"edgefleet {found['version']}, schema {found['schema']}, {found['from']}"),
                ("rows", f"{found['rows']:,}"),
                ("blobs", f"{found['blobs']:,}"),
                ("size", size(found["bytes"])),
                ("keys", _keys_in_words(found) + _opened_in_words(found)),
                ("origin", "proved" if found["origin_proved"] else "not proved"),
                (
                    "checked",
                    "files, tables, trial restore, audit trail, signatures" if found["is_deep"] else "files, tables",
                ),
                ("result", "whole" if not found["problems"] else counted(len(found["problems"]), "problem")),
            ]
        )
        for problem in found["problems"]:
            session.out.line(f"problem: {problem}")

    session.out.facts(found, show)
    if code:
        raise typer.Exit(code)


def restore(  # noqa: PLR0913, PLR0917 - the flags of the command
    ctx: typer.Context,
    where: Where,
    data: Data = None,
    name: Name = None,
    db: Database = None,
    blob_url: BlobUrl = None,
    identity: IdentityFile = None,
    keys_passphrase_file: Passphrase = None,
    bucket_settings: BucketSettings = None,
) -> None:
    """Restore a server from a backup into a new data folder; the same command goes on after a crash."""
    session = Session.of(ctx)
    chosen = (data or default_data()).absolute()
    check_one(identity=identity, keys_passphrase_file=keys_passphrase_file)
    flags = child_flags(
        data=chosen,
        backup=name,
        db=db,
        blob_url=blob_url,
        identity=identity,
        keys_passphrase_file=keys_passphrase_file,
        bucket_settings=bucket_settings,
    )
    found, code = run(session, "restore", [*flags, "--from", place_of(where)])

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


def _keys_in_words(found: dict[str, Any]) -> str:
    words = {"sealed": "sealed by a passphrase", "recipient": f"sealed to the key {found['recipient']}"}
    return words.get(found["keys"], str(found["keys"]))


def _opened_in_words(found: dict[str, Any]) -> str:
    return "" if found["keys_opened"] or found["keys"] == "none" else ", not opened"


def _tell_missing(session: Session, found: dict[str, Any]) -> None:
    if found["missing_blobs"]:
        session.out.notice(
            f"{len(found['missing_blobs'])} blobs are missing: the server had lost them before; publish those releases again"
        )
