"""Making a server's data folder out of a backup: blobs, database, keys, settings, in this order, so that nothing starts before the end.

`restoring.json` in the folder says what is done: a run that was killed goes on. Whatever is there that is not of that run is refused.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from edgefleet_protocol.digest import Sha256
from edgefleet_server import migrations
from edgefleet_server.db.database import Database
from edgefleet_server.process.backup import backup_manifest as naming
from edgefleet_server.process.backup import database_loader as loading
from edgefleet_server.process.backup.backup_catalog import chosen, manifest_of
from edgefleet_server.process.backup.backup_manifest import BlobEntry, Manifest
from edgefleet_server.process.backup.backup_places import BackupPlace
from edgefleet_server.process.backup.backup_writer import Progress
from edgefleet_server.process.backup.database_loader import Loader, PostgresLoader, SqliteLoader
from edgefleet_server.process.backup.database_reader import reading, sum_of
from edgefleet_server.process.backup.errors import DifferentRowsError, TargetNotEmptyError
from edgefleet_server.process.backup.row_files import damaged, read_rows
from edgefleet_server.process.backup.settings_file import write_settings
from edgefleet_server.process.backup.table_shapes import Row
from edgefleet_server.process.backup_keys import key_archive
from edgefleet_server.process.backup_keys.key_opener import Opener, archive_in
from edgefleet_server.registry import blobs
from edgefleet_server.settings import ServerSettings, load_settings
from edgefleet_server.signing.keys.key_files import sync_folder

MARK: Final = "restoring.json"


@dataclass(frozen=True, slots=True)
class Target:
    """Where a server is restored. database_url, blob_url: None = as in a new data folder."""

    data: Path
    database_url: str | None = None
    blob_url: str | None = None

    @property
    def settings(self) -> ServerSettings:
        """The settings that reach database and blobs; those of the backup are not there yet."""
        given = {"database_url": self.database_url or f"sqlite:///{self.data / 'edgefleet.db'}"}
        return load_settings(self.data, **given, blob_url=self.blob_url)


class Restorer:
    """Restores one backup. Calls block for as long as it takes."""

    def __init__(self, place: BackupPlace, target: Target, progress: Progress) -> None:
        """Wire the parts."""
        self._place = place
        self._target = target
        self._progress = progress

    def restore(self, name: str | None, opener: Opener) -> dict[str, Any]:
        """Restore a backup, the newest without a name; return what was done. Raises EdgefleetError, OSError."""
        name = chosen(self._place, name)
        manifest, digest = manifest_of(self._place, name)
        archive = archive_in(self._place, manifest, opener)
        self._target.data.mkdir(mode=0o700, parents=True, exist_ok=True)
        done = self._begin(digest)
        if "blobs" not in done:
            self._blobs(manifest)
            self._note(digest, done := [*done, "blobs"])
        if "database" not in done:
            self._database(manifest, digest)
            self._note(digest, [*done, "database"])
        self._finish(archive)
        (self._target.data / MARK).unlink()
        return {
            "backup": name,
            "taken_at": manifest.database.taken_at.isoformat(),
            "data": str(self._target.data),
            "database": self._target.settings.database.split(":", 1)[0],
            "rows": manifest.database.rows,
            "blobs": len(manifest.blobs),
            "keys": manifest.keys.form,
            "missing_blobs": manifest.missing_blobs,
        }

    # -- what is there -----------------------------------------------------------------------------------------------------

    def _begin(self, digest: str) -> list[str]:
        """Return the steps that an earlier run has done. Raises TargetNotEmptyError."""
        data = self._target.data
        mark = data / MARK
        if mark.is_file():
            known = json.loads(mark.read_text(encoding="utf-8"))
            if known["manifest"] != digest:
                raise TargetNotEmptyError(
                    f"{data} has the beginning of another backup",
                    next_step="empty it, or restore that backup to its end",
                )
            return list(known["done"])
        found = sorted(path.name for path in data.iterdir())
        if found:
            raise TargetNotEmptyError(
                f"{data} is not empty: it has {', '.join(found[:5])}",
                next_step="restore into a new folder; move the old one away first (`mv`), do not delete it yet",
            )
        self._note(digest, [])
        return []

    def _note(self, digest: str, done: list[str]) -> None:
        mark = self._target.data / MARK
        new = mark.with_suffix(".new")
        with new.open("w", encoding="utf-8") as file:
            json.dump({"manifest": digest, "done": done}, file)
            file.flush()
            os.fsync(file.fileno())
        new.replace(mark)
        sync_folder(mark.parent)

    # -- blobs and files -----------------------------------------------------------------------------------------------------

    def _blobs(self, manifest: Manifest) -> None:
        store = blobs.open_blob_store(self._target.settings)
        there = self._place.sizes(naming.BLOBS)
        total, done = sum(one.bytes for one in manifest.blobs), 0
        missing = set(manifest.missing_blobs)
        for one in manifest.blobs:
            self._progress("blobs", done, total, one.path or one.sha256[:12])
            if one.sha256 in missing:
                continue
            if there.get(naming.blob_name(one.sha256)) != one.bytes:
                raise damaged(f"the blob {one.sha256[:12]}", "it is not there, or has another length")
            if one.path:
                self._file(one)
            elif store.size(Sha256(one.sha256)) != one.bytes:
                with (
                    store.writer(limit_bytes=one.bytes) as writer,
                    self._place.open(naming.blob_name(one.sha256)) as file,
                ):
                    while piece := file.read(blobs.READ_BYTES):
                        writer.write(piece)
                    writer.finish(Sha256(one.sha256))
            done += one.bytes
        self._progress("blobs", total, total, "")

    def _file(self, one: BlobEntry) -> None:
        """Write a package of the agent out of a backup of an earlier version; the server takes it in when it starts."""
        path = self._target.data / one.path
        if ".." in Path(one.path).parts or not path.is_relative_to(self._target.settings.agent_packages_dir):
            raise damaged("the manifest", f"it names the file {one.path!r}")
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        digest = hashlib.sha256()
        with path.open("wb") as file, self._place.open(naming.blob_name(one.sha256)) as source:
            while piece := source.read(blobs.READ_BYTES):
                digest.update(piece)
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        sync_folder(path.parent)
        if digest.hexdigest() != one.sha256:
            raise damaged(one.path, "its sha256 is not the one in the manifest")

    # -- the database ------------------------------------------------------------------------------------------------------

    def _database(self, manifest: Manifest, digest: str) -> None:
        db = Database(self._target.settings.database)
        try:
            if db.is_sqlite:
                self._into_sqlite(manifest, digest, Path(str(db.engine.url.database)))
            else:
                self.fill(manifest, digest, db)
            migrations.upgrade(db)
        finally:
            db.dispose()

    def _into_sqlite(self, manifest: Manifest, digest: str, final: Path) -> None:
        """Fill a file under another name: what a process that died has left of it is thrown away."""
        if final.exists():
            raise TargetNotEmptyError(f"{final} is there already", next_step="move it away, or name another file")
        part = final.with_name(f"{final.name}.restoring")
        loading.remove_file(part)
        db = Database(f"sqlite:///{part}")
        try:
            self.fill(manifest, digest, db)
        finally:
            db.dispose()
        loading.settle_file(part)
        part.replace(final)
        sync_folder(final.parent)

    def fill(self, manifest: Manifest, digest: str, db: Database) -> None:
        """Fill an empty database with the rows of a backup, read them again and compare.

        Raises TargetNotEmptyError, UnstorableRowError, DamagedBackupError, DifferentRowsError.
        """
        part = manifest.database
        loading.prepare(db, part.revision, digest)
        db.dispose()
        loader: Loader = SqliteLoader(Path(str(db.engine.url.database))) if db.is_sqlite else PostgresLoader(db)
        with contextlib.closing(loader):
            for done, table in enumerate(part.tables):
                self._progress("database", done, 2 * len(part.tables), table.shape.name)
                if table.written.rows and not loader.is_filled(table.shape):
                    name = naming.table_name(manifest.name, table.shape.name)
                    loader.load(table.shape, self._rows(name, table.written.sha256))
            self._compare(manifest, db)
            loader.finish(part.revision, part.counters)
        self._progress("database", 1, 1, "")

    def _rows(self, name: str, sha256: str) -> Iterator[list[Row]]:
        with self._place.open(name) as file:
            yield from read_rows(file, name, sha256)

    def _compare(self, manifest: Manifest, db: Database) -> None:
        count = len(manifest.database.tables)
        with reading(db) as reader:
            for done, table in enumerate(manifest.database.tables):
                self._progress("database", count + done, 2 * count, f"checking {table.shape.name}")
                found = sum_of(reader, table.shape)
                if (found.rows, found.text) != (table.written.rows, table.written.sum):
                    raise DifferentRowsError(
                        f"{table.shape.name} has {found.rows} rows with sum {found.text[:12]}, and the backup has"
                        f" {table.written.rows} with {table.written.sum[:12]}",
                        next_step="empty the target and restore again; if that repeats, report it with both lines",
                    )

    # -- the end -----------------------------------------------------------------------------------------------------------

    def _finish(self, archive: bytes) -> None:
        """Write keys and settings: from here on the server can start."""
        self._progress("keys", 0, 1, "")
        data = self._target.data
        held = data / ".restored"
        held.mkdir(mode=0o700, exist_ok=True)
        names = key_archive.unpack(archive, held)
        changed = {
            "database_url": self._target.database_url,
            "database_url_file": None,
            "blob_url": self._target.blob_url,
        }
        write_settings(held / key_archive.FILES[0], changed)
        for folder in ("run", "broker", "blobs"):
            (data / folder).mkdir(mode=0o700, exist_ok=True)
        for name in sorted(names, key=lambda one: one == key_archive.FILES[0]):  # the settings last
            if name == key_archive.FILES[0]:
                sync_folder(data)
            (data / name).parent.mkdir(mode=0o700, exist_ok=True)
            (held / name).replace(data / name)
            sync_folder((data / name).parent)
        for folder, _, _ in os.walk(held, topdown=False):
            Path(folder).rmdir()
        self._progress("keys", 1, 1, "")
