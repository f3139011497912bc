"""`edgectl server upgrade-schema`: brings a database to the schema of this version, before servers of it start (ADR 0158).

    python -m edgefleet_server.process.schema_upgrade upgrade-schema --data DIR [--db URL] [--dry-run]

Needs the database only, no keys. Prints lines of JSON: progress while it works, `{"result": …}` in the end. Exit code: 0 done,
or nothing to do; 1 failed; 6 a server runs on the file of SQLite.
"""

import argparse
import json
import logging
import sys
import time
from contextlib import ExitStack, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sqlalchemy import make_url
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from edgefleet_protocol.errors import EdgefleetError
from edgefleet_server import migrations
from edgefleet_server.db.database import Database
from edgefleet_server.migrations import UpgradeWatch
from edgefleet_server.process.init import reported, stopped_server
from edgefleet_server.process.progress_lines import ProgressLines
from edgefleet_server.setting_sources import SettingsError
from edgefleet_server.settings import ServerSettings, load_settings

_log = logging.getLogger(__name__)
_WAIT = "another process upgrades this database; waiting until it has ended"


class SchemaOutdatedError(EdgefleetError):
    """The schema of the database is older than this program, and the start may not upgrade it."""

    code = "server.schema_outdated"


class SchemaBusyError(EdgefleetError):
    """A table is in use, so that the schema cannot be changed just now; nothing was changed."""

    code = "server.schema_busy"


def prepare_schema(db: Database, *, may_upgrade: bool) -> None:
    """Bring the schema of a server that starts up to date, or refuse to. Raises SchemaOutdatedError, SchemaUnsupportedError."""
    lacking = migrations.pending(db)
    if not lacking:
        return
    if not may_upgrade:
        raise SchemaOutdatedError(
            f"the database lacks {len(lacking)} steps up to schema {migrations.newest()}, and"
            " `upgrade_schema_at_start` is false",
            next_step="run `edgectl server upgrade-schema` with this version once, then start the servers",
        )
    _log.info("the schema is brought up to date", extra={"schema": migrations.newest(), "steps": len(lacking)})
    migrations.upgrade(
        db, UpgradeWatch(lambda: _log.info(_WAIT), lambda step: _log.info("step taken", extra={"step": step}))
    )


def upgrade_schema(settings: ServerSettings, progress: ProgressLines, *, is_dry_run: bool = False) -> dict[str, Any]:
    """Upgrade the database of these settings, or say what that would do; return what `upgrade-schema` prints.

    Raises SettingsError, DatabaseUnavailableError, AlreadyRunningError, SchemaBusyError, SchemaUnsupportedError.
    """
    began = time.monotonic()
    _check_there(settings)
    db = Database(settings.database)
    try:
        db.ping()
        lacking = migrations.pending(db)
        result = {
            "database": "sqlite" if db.is_sqlite else "postgresql",
            "from": _before(lacking),
            "to": migrations.newest(),
            "is_dry_run": is_dry_run,
            "steps": [{**asdict(step), "elapsed_s": None} for step in lacking],
            "elapsed_s": 0.0,
        }
        if lacking and not is_dry_run:
            result["steps"] = _take(settings, db, lacking, progress)
            result["elapsed_s"] = round(time.monotonic() - began, 3)
        return result
    finally:
        db.dispose()


def _take(
    settings: ServerSettings, db: Database, lacking: list[migrations.SchemaStep], progress: ProgressLines
) -> list[dict[str, Any]]:
    """Take the steps; return those that this process took, with their seconds."""
    words = {step.number: f"{step.number} {step.name}" for step in lacking}
    taken: dict[str, float] = {}
    since = time.monotonic()

    def waits() -> None:
        progress(_WAIT, 0, len(lacking), "")

    def note(step: str) -> None:
        nonlocal since
        taken[step] = round(time.monotonic() - since, 3)
        since = time.monotonic()
        left = [text for number, text in words.items() if number > step]
        progress(left[0] if left else "the last step is written", len(taken), len(lacking), "")

    progress(next(iter(words.values())), 0, len(lacking), "")
    with ExitStack() as held:
        held.enter_context(
            stopped_server(
                settings, "its file of SQLite cannot change under it", "stop it first: `edgectl server down`"
            )
            if db.is_sqlite
            else nullcontext()
        )
        try:
            migrations.upgrade(db, UpgradeWatch(waits, note))
        except OperationalError as error:
            raise SchemaBusyError(
                f"a step could not be taken, and nothing of it was kept: {str(error.orig).splitlines()[0]}",
                next_step="run the command again: it goes on; if that lasts, stop the servers on this database first",
            ) from error
    return [{**asdict(step), "elapsed_s": taken[step.number]} for step in lacking if step.number in taken]


def _before(lacking: list[migrations.SchemaStep]) -> str:
    """Return the schema before these steps, "" for a database without tables."""
    known = [step.number for step in migrations.steps()]
    at = len(known) - len(lacking)
    return known[at - 1] if at else ""


def _check_there(settings: ServerSettings) -> None:
    """Refuse the file of SQLite of a server that was never made: a database without keys would only be in the way."""
    url = make_url(settings.database)
    file = url.database if url.get_backend_name() == "sqlite" else None
    if file is not None and not Path(file).is_file():
        raise SettingsError(
            f"there is no database to upgrade: {file} does not exist",
            next_step=f"name the server's folder with --data, or create a server: `edgectl server init {settings.data_dir}`",
        )


def main(arguments: list[str] | None = None) -> int:
    """Run `server upgrade-schema`. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="edgectl server", description="Bring the database to this version's schema.")
    parser.add_argument("verb", choices=("upgrade-schema",))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--db", dest="database_url")
    parser.add_argument("--dry-run", action="store_true")
    given = parser.parse_args(arguments)
    try:
        settings = load_settings(given.data.absolute(), database_url=given.database_url)
        result = upgrade_schema(settings, ProgressLines(), is_dry_run=given.dry_run)
    except (EdgefleetError, SQLAlchemyError) as error:
        return reported(error)
    sys.stdout.write(json.dumps({"result": result}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
