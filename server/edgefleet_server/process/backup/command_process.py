"""The process behind `edgectl server backup`, `verify-backup`, `restore` and `migrate`.

    python -m edgefleet_server.process.backup.command_process \
        backup --data DIR --to WHERE [--keys-passphrase-file F | --without-keys] [--keep N]
    … verify --from WHERE [--backup NAME] [--keys-passphrase-file F] [--deep]
    … restore --from WHERE --data DIR [--backup NAME] [--db URL] [--blob-url URL] [--keys-passphrase-file F]
    … migrate --data DIR [--to URL] [--blobs URL] [--replace-unstorable]

Prints lines of JSON: progress while it works, `{"result": …}` in the end. Exit code: 0 done; 1 failed, or a problem was found;
6 something is in the way.
"""

import argparse
import gc
import json
import sqlite3
import sys
import time
from pathlib import Path
from typing import Any

import psycopg
from sqlalchemy.exc import SQLAlchemyError

from edgefleet_protocol.errors import EdgefleetError
from edgefleet_server.clock import SystemClock
from edgefleet_server.db.database import DatabaseUnavailableError
from edgefleet_server.process.backup import key_archive
from edgefleet_server.process.backup.backup_catalog import prune
from edgefleet_server.process.backup.backup_check import BackupChecker
from edgefleet_server.process.backup.backup_places import opened_place
from edgefleet_server.process.backup.backup_writer import BackupWriter, KeysChoice
from edgefleet_server.process.backup.database_migration import Destination, Migration
from edgefleet_server.process.backup.errors import BackupPlaceError, TargetNotEmptyError, space_checked
from edgefleet_server.process.backup.restorer import Restorer, Target
from edgefleet_server.process.init import report_error
from edgefleet_server.process.progress_lines import ProgressLines
from edgefleet_server.setting_sources import SettingsError
from edgefleet_server.settings import ServerSettings, load_settings


def backup(given: argparse.Namespace) -> tuple[dict[str, Any], int]:
    """Make a backup; return what to print, and the exit code."""
    settings = _settings_of(given.data)
    keys = KeysChoice(_passphrase(given), leaves_out=given.without_keys)
    if given.keep is not None and given.keep < 1:
        raise SettingsError("--keep needs 1 at least", next_step="the newest backup always stays")
    began, clock = time.monotonic(), SystemClock()
    with space_checked(f"the backup in {given.to}"), opened_place(given.to, is_new=True) as place:
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
        "resumed": made.resumed,
        "removed_backups": removed[0],
        "missing_blobs": manifest.missing_blobs,
        "elapsed_s": round(time.monotonic() - began, 3),
    }
    return found, 1 if manifest.missing_blobs else 0


def verify(given: argparse.Namespace) -> tuple[dict[str, Any], int]:
    """Check a backup; return what to print, and the exit code."""
    with opened_place(getattr(given, "from"), is_new=False) as place:
        checker = BackupChecker(place, SystemClock(), ProgressLines())
        found = checker.check(given.backup, _passphrase(given), is_deep=given.deep)
    return found, 1 if found["problems"] else 0


def restore(given: argparse.Namespace) -> tuple[dict[str, Any], int]:
    """Restore a server; return what to print, and the exit code."""
    began = time.monotonic()
    target = Target(given.data.absolute(), given.db, given.blob_url)
    with space_checked(f"the server in {given.data}"), opened_place(getattr(given, "from"), is_new=False) as place:
        found = Restorer(place, target, ProgressLines()).restore(given.backup, _passphrase(given))
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


def _settings_of(data: Path) -> ServerSettings:
    data = data.absolute()
    if not (data / "server.toml").is_file():
        raise SettingsError(
            f"{data} holds no server (there is no server.toml)",
            next_step="name the data folder of a server with --data",
        )
    return load_settings(data)


def _passphrase(given: argparse.Namespace) -> bytes | None:
    file: Path | None = given.keys_passphrase_file
    return None if file is None else key_archive.passphrase_of(file)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="edgectl server")
    verbs = parser.add_subparsers(required=True)
    for name, work in (("backup", backup), ("verify", verify), ("restore", restore), ("migrate", migrate)):
        verb = verbs.add_parser(name)
        verb.set_defaults(work=work)
        if name != "verify":
            verb.add_argument("--data", type=Path, required=True)
        if name in {"verify", "restore"}:
            verb.add_argument("--from", required=True)
            verb.add_argument("--backup")
        if name != "migrate":
            verb.add_argument("--keys-passphrase-file", type=Path)
        for flag, place in (
            ("--db", "restore"),
            ("--blob-url", "restore"),
            ("--blobs", "migrate"),
            ("--to", "migrate"),
        ):
            if name == place:
                verb.add_argument(flag)
        if name == "backup":
            verb.add_argument("--to", required=True)
            verb.add_argument("--without-keys", action="store_true")
            verb.add_argument("--keep", type=int)
        if name == "verify":
            verb.add_argument("--deep", action="store_true")
        if name == "migrate":
            verb.add_argument("--replace-unstorable", action="store_true")
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
