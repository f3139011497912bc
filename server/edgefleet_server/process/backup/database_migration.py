"""Moving a server to another database or another store of blobs, with its devices attached (ADR 0152).

While the server runs, only blobs are copied: they never change. With the server stopped, blobs that are new and the whole database
follow, both sides are compared, and only then `server.toml` names the new ones. The old database is not written to; a file next to it
says where the server has gone. A run that was killed goes on at any moment, also between the last row and the settings.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from sqlalchemy import URL, text
from sqlalchemy.engine import make_url

from edgefleet_protocol.clock import Clock
from edgefleet_protocol.digest import Sha256
from edgefleet_server import migrations
from edgefleet_server.db.database import Database, metadata
from edgefleet_server.process.backup import database_loader as loading
from edgefleet_server.process.backup.backup_manifest import BlobEntry
from edgefleet_server.process.backup.backup_writer import Progress, blobs_named
from edgefleet_server.process.backup.database_loader import PostgresLoader
from edgefleet_server.process.backup.database_reader import Reader, reading, sum_of
from edgefleet_server.process.backup.errors import DifferentRowsError, MissingBlobError, TargetNotEmptyError
from edgefleet_server.process.backup.settings_file import write_settings
from edgefleet_server.process.backup.table_shapes import Row, RowSum, TableShape, packed, shapes_of
from edgefleet_server.process.init import SETTINGS_FILE, AlreadyRunningError, stopped_server
from edgefleet_server.registry import blobs
from edgefleet_server.setting_sources import SettingsError, is_in_environment
from edgefleet_server.settings import ServerSettings

BEFORE = "server.toml.before-migration"


@dataclass(frozen=True, slots=True)
class Destination:
    """Where a server moves. None = it stays where it is."""

    database_url: str | None = None
    blob_url: str | None = None


class Migration:
    """Moves one server. Calls block for as long as it takes."""

    def __init__(self, settings: ServerSettings, destination: Destination, clock: Clock, progress: Progress) -> None:
        """Wire the parts. Raises SettingsError for a destination that cannot be one."""
        self._settings = settings
        self._to = destination
        self._clock = clock
        self._progress = progress
        self._check_settings()

    def run(self, *, replaces: bool) -> dict[str, Any]:
        """Move, or copy the blobs ahead while the server runs; return what was done. `is_done` says which. Raises EdgefleetError."""
        copied = self._blobs_ahead()
        try:
            with stopped_server(
                self._settings, "it must not write meanwhile", "stop it and run the same command again"
            ):
                return {"is_done": True, **self._finish(copied, replaces=replaces)}
        except AlreadyRunningError:
            if self._to.blob_url is None:
                raise
            return {"is_done": False, "blobs": copied, "next": "stop the server and run the same command again"}

    def _check_settings(self) -> None:
        for name, value in (("database_url", self._to.database_url), ("blob_url", self._to.blob_url)):
            if value is not None and is_in_environment(name):
                raise SettingsError(
                    f"{name} comes from the environment, which is stronger than server.toml",
                    next_step=f"take EDGEFLEET_SERVER_{name.upper()} out of the server's environment, so that the new value counts",
                )
        if self._to.database_url is not None:
            url = make_url(self._to.database_url)
            if url.get_backend_name() != "postgresql":
                raise SettingsError(
                    f"a server can move to PostgreSQL, not to {url.get_backend_name()}",
                    next_step="to go from PostgreSQL to SQLite, make a backup and restore it without --db",
                )

    # -- blobs -----------------------------------------------------------------------------------------------------------

    def _blobs_ahead(self) -> int:
        """Copy the blobs that the new store lacks; return how many were copied."""
        if self._to.blob_url is None:
            return 0
        db = Database(self._settings.database)
        try:
            with reading(db) as reader:
                wanted = list(blobs_named(reader))
        finally:
            db.dispose()
        old = blobs.open_blob_store(self._settings)
        new = blobs.open_blob_store(self._settings.model_copy(update={"blob_url": self._to.blob_url}))
        total, done, copied = sum(one.bytes for one in wanted), 0, 0
        for one in wanted:
            self._progress("blobs", done, total, one.sha256[:12])
            if new.size(Sha256(one.sha256)) != one.bytes:
                _copy_blob(old, new, one)
                copied += 1
            done += one.bytes
        self._progress("blobs", total, total, "")
        return copied

    # -- the server is stopped -------------------------------------------------------------------------------------------

    def _finish(self, copied: int, *, replaces: bool) -> dict[str, Any]:
        copied += self._blobs_ahead()
        found: dict[str, Any] = {"blobs": copied}
        old = Database(self._settings.database)
        if self._to.database_url is not None:
            if not old.is_sqlite:
                raise SettingsError(
                    "this server is on PostgreSQL already", next_step="move between those with pg_dump, or by a backup"
                )
            found |= self._copy_database(old, replaces=replaces)
        self._switch(old)
        return found

    def _copy_database(self, old: Database, *, replaces: bool) -> dict[str, Any]:
        new = Database(str(self._to.database_url))
        try:
            old.ping()
            new.ping()
            migrations.upgrade(old)
            with reading(old) as reader:
                revision, counters = reader.revision(), reader.counters()
                if (sums := self._copied_before(old, new, reader)) is not None:
                    return {"rows": sum(one.rows for one in sums.values()), "tables": len(sums), "replaced": 0}
                loading.prepare(new, revision, _server_id(old))
                with closing(PostgresLoader(new, replaces=replaces)) as loader:
                    sums = self._copy_tables(reader, loader)
                    self._compare(new, sums)
                    loader.finish(revision, counters)
                    replaced = loader.replaced
            return {"rows": sum(one.rows for one in sums.values()), "tables": len(sums), "replaced": replaced}
        finally:
            old.dispose()
            new.dispose()

    def _copied_before(self, old: Database, new: Database, reader: Reader) -> dict[TableShape, RowSum] | None:
        """Return the sums of all tables where an earlier run copied them to the end, and was killed before it changed the settings."""
        if not loading.is_filled_by(new, reader.revision()) or _server_id(old) != _server_id(new):
            return None
        sums: dict[TableShape, RowSum] = {}
        with reading(new) as copy:
            for table in shapes_of(metadata()):
                sums[table], found = sum_of(reader, table), sum_of(copy, table)
                if (found.rows, found.text) != (sums[table].rows, sums[table].text):
                    return None
        return sums

    def _copy_tables(self, reader: Reader, loader: PostgresLoader) -> dict[TableShape, RowSum]:
        """Copy each table in a transaction of its own. One that an earlier run has filled stays if it still has the same rows."""
        shapes = shapes_of(metadata())
        sums: dict[TableShape, RowSum] = {}
        for done, table in enumerate(shapes):
            self._progress("database", done, 2 * len(shapes), table.name)
            sums[table] = total = RowSum()
            if not loader.is_filled(table):
                loader.load(table, _counted(reader, loader, table, total))
                continue
            for _ in _counted(reader, loader, table, total):
                pass
            if not loader.has(table, total):  # the server has run in between
                loader.empty(shapes)
                return self._copy_tables(reader, loader)
        return sums

    def _compare(self, new: Database, sums: dict[TableShape, RowSum]) -> None:
        with reading(new) as reader:
            for done, (table, total) in enumerate(sums.items()):
                self._progress("database", len(sums) + done, 2 * len(sums), f"checking {table.name}")
                found = sum_of(reader, table)
                if (found.rows, found.text) != (total.rows, total.text):
                    raise DifferentRowsError(
                        f"{table.name} has {total.rows} rows with sum {total.text[:12]} before, and {found.rows} with"
                        f" {found.text[:12]} after the move",
                        next_step="drop the new database, create it again and run the command again; the server may go on as it was",
                    )
        self._progress("database", 1, 1, "")

    def _switch(self, old: Database) -> None:
        """Let the settings name what is new, and the old database say so. From here on the server starts there."""
        data = self._settings.data_dir
        file = data / SETTINGS_FILE
        before = data / BEFORE
        if not before.exists():
            write_settings_copy(file.read_text(encoding="utf-8"), before)
        changed: dict[str, str | None] = {}
        if self._to.database_url is not None:
            changed |= {"database_url": self._to.database_url, "database_url_file": None}
        if self._to.blob_url is not None:
            changed["blob_url"] = self._to.blob_url
        write_settings(file, changed)
        if self._to.database_url is not None:  # only now: with the mark and the old settings no server would start
            mark = migrations.moved_mark(old)
            assert mark is not None
            shown = _without_password(make_url(self._to.database_url))
            mark.write_text(json.dumps({"to": shown, "at": self._clock.now().isoformat()}) + "\n", encoding="utf-8")


def _counted(reader: Reader, loader: PostgresLoader, table: TableShape, total: RowSum) -> Iterator[list[Row]]:
    """Yield a table's rows as PostgreSQL can store them, adding them to the sum."""
    for batch in reader.batches(table):
        rows = loader.storable(table, batch.rows)
        total.add(batch.encoded if rows is batch.rows else packed(rows))
        yield rows


def _copy_blob(old: blobs.BlobStore, new: blobs.BlobStore, one: BlobEntry) -> None:
    """Copy one blob, its digest checked on the way. Raises MissingBlobError."""
    sha256 = Sha256(one.sha256)
    if old.size(sha256) != one.bytes:
        raise MissingBlobError(
            f"the blob {sha256} is not in the store of this server, or is not whole",
            next_step="restore it from a backup, or publish its release again under a new version and remove the old one",
        )
    with new.writer(limit_bytes=max(1, one.bytes)) as writer:
        for piece in blobs.read_chunks(old, sha256, 0, one.bytes):
            writer.write(piece)
        writer.finish(sha256)


def _server_id(old: Database) -> str:
    """Return what tells this server from others: the digest of its first root of trust."""
    with old.read() as session:
        root = session.scalar(
            text("SELECT data FROM signing_tuf_metadata WHERE name = 'root' ORDER BY version LIMIT 1")
        )
    if root is None:
        raise TargetNotEmptyError(
            "the database of this server has no root of trust", next_step="name the data folder of a server"
        )
    return hashlib.sha256(bytes(root)).hexdigest()


def _without_password(url: URL) -> str:
    return url.render_as_string(hide_password=True)


def write_settings_copy(before: str, copy: Any) -> None:
    """Keep the settings of before the move, 0600."""
    copy.touch(mode=0o600)
    copy.write_text(before, encoding="utf-8")
