"""The process behind `edgectl server backup`, `verify-backup`, `restore`, `migrate`, `backup-key create` and `garbage-collect`.

    python -m edgefleet_server.process.backup.command_process \
        backup --data DIR --to WHERE [--keys-passphrase-file F | --recipient F | --without-keys] [--keep N]
    … verify --from WHERE [--backup NAME] [--keys-passphrase-file F | --identity F | --recipient F] [--deep]
    … restore --from WHERE --data DIR [--backup NAME] [--db URL] [--blob-url URL] [--keys-passphrase-file F | --identity F]
    … migrate --data DIR [--to URL] [--blobs URL] [--replace-unstorable]
    … new-key --out F --recipient F
    … garbage-collect --data DIR [--delete] [--strays] [--grace-days N]

The first three take `--bucket-settings F` as well: a file with the `blob_…` settings that reach the bucket of backups.

Prints lines of JSON: progress while it works, `{"result": …}` in the end. Exit code: 0 done; 1 failed, or a problem was found;
6 something is in the way.
"""

import argparse
import gc
import json
import sqlite3
import sys
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
from sqlalchemy.exc import SQLAlchemyError

from edgefleet_protocol.errors import EdgefleetError
from edgefleet_server import migrations
from edgefleet_server.clock import SystemClock
from edgefleet_server.composition.container import build_parts
from edgefleet_server.db.database import DatabaseUnavailableError
from edgefleet_server.process.backup.backup_catalog import prune
from edgefleet_server.process.backup.backup_check import BackupChecker
from edgefleet_server.process.backup.backup_places import NO_SERVER, BackupPlace, bucket_settings, opened_place
from edgefleet_server.process.backup.backup_writer import BackupWriter, KeysChoice
from edgefleet_server.process.backup.database_migration import Destination, Migration
from edgefleet_server.process.backup.errors import BackupPlaceError, TargetNotEmptyError, space_checked
from edgefleet_server.process.backup.restorer import Restorer, Target
from edgefleet_server.process.backup_keys.key_opener import Opener
from edgefleet_server.process.backup_keys.passphrase_key import passphrase_of
from edgefleet_server.process.backup_keys.recipient_key import identity_of, new_pair, recipient_of
from edgefleet_server.process.blob_collection.garbage_collector import Collector, Terms
from edgefleet_server.process.init import report_error
from edgefleet_server.process.progress_lines import ProgressLines
from edgefleet_server.registry.object_store.unfinished_uploads import UnfinishedUploads
from edgefleet_server.setting_sources import SettingsError
from edgefleet_server.settings import ServerSettings, load_settings


def backup(given: argparse.Namespace) -> tuple[dict[str, Any], int]:
    """Make a backup; return what to print, and the exit code."""
    settings = _settings_of(given.data)
    recipient = None if given.recipient is None else recipient_of(given.recipient)
    keys = KeysChoice(_passphrase(given), given.without_keys, recipient)
    if given.keep is not None and given.keep < 1:
        raise SettingsError("--keep needs 1 at least", next_step="the newest backup always stays")
    began, clock = time.monotonic(), SystemClock()
    with space_checked(f"the backup in {given.to}"), _place(given, given.to, is_new=True) as place:
        made = BackupWriter(settings, place, clock, ProgressLines()).make(keys)
        removed = prune(place, given.keep) if given.keep is not None and not place.holds_one else (0, 0)
    manifest = made.manifest
    found = {
        "backup": manifest.name,
        "where": given.to,
        "manifest": made.digest,
        "taken_at": manifest.database.taken_at.isoformat(),
        "rows": manifest.database.rows,
        "blobs": len(manifest.blobs),
        "copied": made.copied,
        "copied_bytes": made.copied_bytes,
        "bytes": manifest.size,
        "keys": manifest.keys.form,
        "recipient": manifest.keys.recipient,
        "resumed": made.resumed,
        "removed_backups": removed[0],
        "missing_blobs": manifest.missing_blobs,
        "elapsed_s": round(time.monotonic() - began, 3),
    }
    return found, 1 if manifest.missing_blobs else 0


def verify(given: argparse.Namespace) -> tuple[dict[str, Any], int]:
    """Check a backup; return what to print, and the exit code."""
    with _place(given, getattr(given, "from")) as place:
        checker = BackupChecker(place, SystemClock(), ProgressLines())
        found = checker.check(given.backup, _opener(given), is_deep=given.deep)
    return found, 1 if found["problems"] else 0


def restore(given: argparse.Namespace) -> tuple[dict[str, Any], int]:
    """Restore a server; return what to print, and the exit code."""
    began = time.monotonic()
    target = Target(given.data.absolute(), given.db, given.blob_url)
    with space_checked(f"the server in {given.data}"), _place(given, getattr(given, "from")) as place:
        found = Restorer(place, target, ProgressLines()).restore(given.backup, _opener(given))
    return found | {"elapsed_s": round(time.monotonic() - began, 3)}, 1 if found["missing_blobs"] else 0


def migrate(given: argparse.Namespace) -> tuple[dict[str, Any], int]:
    """Move a server to another database or store; return what to print, and the exit code."""
    began = time.monotonic()
    if given.to is None and given.blobs is None:
        raise SettingsError(
            "nothing is to be moved", next_step="give --to URL for the database, --blobs URL for the blobs, or both"
        )
    settings = _settings_of(given.data)
    with space_checked("the new database or store"):
        moved = Migration(settings, Destination(given.to, given.blobs), SystemClock(), ProgressLines())
        found = moved.run(replaces=given.replace_unstorable)
    return found | {"elapsed_s": round(time.monotonic() - began, 3)}, 0


def garbage_collect(given: argparse.Namespace) -> tuple[dict[str, Any], int]:
    """Find, and remove where asked, blobs that nothing names; return what to print, and the exit code."""
    began, clock = time.monotonic(), SystemClock()
    if given.grace_days < 1:
        raise SettingsError(
            "--grace-days needs 1 at least", next_step="what is uploaded just now is named by nothing yet"
        )
    settings = _settings_of(given.data)
    parts, uploads = build_parts(settings, clock), UnfinishedUploads(settings, clock)
    try:
        parts.db.ping()
        if not migrations.is_current(parts.db):
            raise SettingsError(
                "the database has the tables of another version", next_step="start the server once, which migrates it"
            )
        collector = Collector(parts.db, parts.registry.unnamed, uploads, parts.access.record, clock, ProgressLines())
        found = collector.run(Terms(timedelta(days=given.grace_days), deletes=given.delete, strays=given.strays))
    finally:
        uploads.close()
        parts.db.dispose()
    return found | {"elapsed_s": round(time.monotonic() - began, 3)}, 1 if found["failed"] else 0


def _settings_of(data: Path) -> ServerSettings:
    data = data.absolute()
    if not (data / "server.toml").is_file():
        raise SettingsError(
            f"{data} holds no server (there is no server.toml)",
            next_step="name the data folder of a server with --data",
        )
    return load_settings(data)


def new_key(given: argparse.Namespace) -> tuple[dict[str, Any], int]:
    """Make a key pair for backups; return what to print, and the exit code."""
    recipient = new_pair(given.out, given.recipient)
    return {"key": recipient.key_id, "identity": str(given.out), "recipient": str(given.recipient)}, 0


def _place(given: argparse.Namespace, where: str, *, is_new: bool = False) -> AbstractContextManager[BackupPlace]:
    """Open the place of backups. Its bucket is reached by a file of settings, else as the blobs of the server are."""
    data: Path = NO_SERVER if given.data is None else given.data.absolute()
    return opened_place(where, is_new=is_new, settings=lambda: bucket_settings(data, given.bucket_settings))


def _passphrase(given: argparse.Namespace) -> bytes | None:
    file: Path | None = given.keys_passphrase_file
    return None if file is None else passphrase_of(file)


def _opener(given: argparse.Namespace) -> Opener:
    if given.identity is not None:
        return identity_of(given.identity)
    return _passphrase(given) if given.recipient is None else recipient_of(given.recipient)


def _flag(names: Sequence[str], **how: Any) -> argparse.ArgumentParser:
    """Return options that several commands have in common. Several names: one of them at most."""
    made = argparse.ArgumentParser(add_help=False)
    group = made.add_mutually_exclusive_group() if len(names) > 1 else made
    for name in names:
        group.add_argument(name, **how)
    return made


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="edgectl server")
    parser.set_defaults(data=None, identity=None, recipient=None)
    verbs = parser.add_subparsers(required=True)
    data = _flag(["--data"], type=Path, required=True)
    bucket = _flag(["--bucket-settings"], type=Path)
    source, name = _flag(["--from"], required=True), _flag(["--backup"])
    seal, opening = "--keys-passphrase-file", _flag(["--keys-passphrase-file", "--identity"], type=Path)

    verb = verbs.add_parser("backup", parents=[data, bucket])
    verb.set_defaults(work=backup)
    verb.add_argument("--to", required=True)
    keys = verb.add_mutually_exclusive_group()
    keys.add_argument(seal, type=Path)
    keys.add_argument("--recipient", type=Path)
    keys.add_argument("--without-keys", action="store_true")
    verb.add_argument("--keep", type=int)

    proof = _flag([seal, "--identity", "--recipient"], type=Path)
    verb = verbs.add_parser("verify", parents=[source, name, bucket, proof])
    verb.set_defaults(work=verify)
    verb.add_argument("--deep", action="store_true")

    verb = verbs.add_parser("restore", parents=[source, data, name, bucket, opening])
    verb.set_defaults(work=restore)
    verb.add_argument("--db")
    verb.add_argument("--blob-url")

    verb = verbs.add_parser("migrate", parents=[data])
    verb.set_defaults(work=migrate)
    verb.add_argument("--to")
    verb.add_argument("--blobs")
    verb.add_argument("--replace-unstorable", action="store_true")

    verb = verbs.add_parser("new-key")
    verb.set_defaults(work=new_key)
    verb.add_argument("--out", type=Path, required=True)
    verb.add_argument("--recipient", type=Path, required=True)

    verb = verbs.add_parser("garbage-collect", parents=[data])
    verb.set_defaults(work=garbage_collect)
    verb.add_argument("--delete", action="store_true")
    verb.add_argument("--strays", action="store_true")
    verb.add_argument("--grace-days", type=int, default=7)
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run one command. Returns the exit code."""
    given = _parser().parse_args(arguments)
    try:
        found, code = given.work(given)
    except TargetNotEmptyError as error:
        report_error(error)
        return 6
    except EdgefleetError as error:
        report_error(error)
        return 1
    except (SQLAlchemyError, sqlite3.Error, psycopg.Error) as error:
        told = DatabaseUnavailableError(
            f"the database cannot be used: {' '.join(str(error).split())[:300]}",
            next_step="check its address, rights and space; then run the same command again: it goes on",
        )
        report_error(told)
        return 1
    except OSError as error:
        told_place = BackupPlaceError(
            f"{error.filename or 'a file'} cannot be used: {error.strerror or error}",
            next_step="check its rights and the disk",
        )
        report_error(told_place)
        return 1
    sys.stdout.write(json.dumps({"result": found}) + "\n")
    return int(code)


if __name__ == "__main__":
    gc.disable()  # millions of rows and no cycle among them: looking for cycles took a fifth of a restore
    sys.exit(main())
