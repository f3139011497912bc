"""`edgectl server seal`: seals the secrets of a database again, with a new key, or without the old ones.

    python -m edgefleet_server.process.secret_sealer --data DIR [--db URL] [--rotate | --forget-old | --lost | --drop-lost KEY ...]

The server may run meanwhile: it reads the keys again when it meets a text of one that it does not know. Prints one JSON object.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from edgefleet_protocol.errors import EdgefleetError
from edgefleet_server import migrations
from edgefleet_server.access.audit_chain.chain_book import AuditChain
from edgefleet_server.access.audit_chain.chain_model import NewEntry
from edgefleet_server.clock import SystemClock
from edgefleet_server.composition.sealed_columns import SEALED_COLUMNS
from edgefleet_server.db.database import Database
from edgefleet_server.encryption.fleet_key import SEALED as FLEET_KEY
from edgefleet_server.encryption.key_sources import source_of
from edgefleet_server.encryption.model import Resealed
from edgefleet_server.encryption.rules import key_id_of
from edgefleet_server.encryption.service import Sealer
from edgefleet_server.process.init import reported, stopped_server
from edgefleet_server.registry.store import sealed_bundles
from edgefleet_server.setting_sources import SettingsError
from edgefleet_server.settings import ServerSettings, load_settings


def seal(settings: ServerSettings, *, rotate: bool = False, forget_old: bool = False) -> Resealed:
    """Seal all secrets of a server's database with the newest key. Raises EdgefleetError; then the former keys still hold."""
    db = _database(settings)
    try:
        sealer = Sealer(db, source_of(settings), SystemClock())
        if rotate:
            return sealer.rotate(SEALED_COLUMNS)
        return sealer.forget_old(SEALED_COLUMNS) if forget_old else sealer.seal_again(SEALED_COLUMNS)
    finally:
        db.dispose()


def lost(settings: ServerSettings) -> dict[str, Any]:
    """Return the ids of the keys that are lost, where they were looked for, and what they sealed: what, where, and the id of the key.

    bundles: those with sealed models that no device can get any more, where the fleet key is among it. Raises EdgefleetError.
    """
    db, source = _database(settings), source_of(settings)
    try:
        found, keys = Sealer(db, source, SystemClock()).lost(SEALED_COLUMNS)
        with db.read() as session:
            bundles = sealed_bundles(session) if any(one.what == FLEET_KEY.what for one in found) else []
    finally:
        db.dispose()
    secrets = [{"what": one.what, "where": str(one.place), "key": key_id_of(one.text)} for one in found]
    return {"keys": keys, "looked_in": source.where, "lost": secrets, "bundles": bundles}


def drop_lost(settings: ServerSettings, keys: list[str]) -> int:
    """Delete the secrets of lost keys, with a row in the audit trail; return how many. Raises EdgefleetError.

    AlreadyRunningError while a server runs on the data folder: it may hold the key, from where this process does not see it.
    """
    db, clock = _database(settings), SystemClock()

    def note(count: int) -> None:
        what = f"{count} secrets of lost keys: {', '.join(keys)}"[:255]
        AuditChain(db, clock).append(NewEntry(clock.now(), "edgectl server seal", "drop_lost_secrets", what, 200, ""))

    try:
        with stopped_server(
            settings,
            "may hold the key",
            "see where it gets the key from (`edgectl server check`); if that is lost, stop it and run this again",
        ):
            return Sealer(db, source_of(settings), clock).drop_lost(SEALED_COLUMNS, keys, note)
    finally:
        db.dispose()


def _database(settings: ServerSettings) -> Database:
    """Return the database, open. Raises SettingsError, DatabaseUnavailableError."""
    db = Database(settings.database)
    db.ping()
    if not migrations.is_current(db):
        raise SettingsError(
            "the database has the tables of another version",
            next_step="bring it up to date: `edgectl server upgrade-schema`",
        )
    return db


def main(arguments: list[str] | None = None) -> int:
    """Run `server seal`. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="edgectl server seal", description="Seal the secrets of the database again.")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--db", dest="database_url")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--rotate", action="store_true")
    which.add_argument("--forget-old", action="store_true")
    which.add_argument("--lost", action="store_true")
    which.add_argument("--drop-lost", nargs="+", metavar="KEY")
    given = parser.parse_args(arguments)
    try:
        settings = load_settings(given.data.absolute(), database_url=given.database_url)
        if given.lost or given.drop_lost:
            told = {"dropped": drop_lost(settings, given.drop_lost)} if given.drop_lost else lost(settings)
            sys.stdout.write(json.dumps(told) + "\n")
            return 0
        done = seal(settings, rotate=given.rotate, forget_old=given.forget_old)
    except (EdgefleetError, SQLAlchemyError) as error:
        return reported(error)
    document = {"key": done.key, "values": done.values, "is_clean": done.is_clean, "from": source_of(settings).where}
    sys.stdout.write(json.dumps(document) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
