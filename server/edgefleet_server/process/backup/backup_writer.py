"""Making a backup while the server runs: the database first, then the blobs that it names, then the keys, and last the manifest.

Blobs never change, so a place that has one needs no other copy. What a run that was killed has left is used by the next: its blobs
always, its database when all of it is there and every blob that it names can still be had (ADR 0151).
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Final

import msgspec

from edgefleet_protocol.clock import Clock
from edgefleet_protocol.digest import Sha256
from edgefleet_server import migrations
from edgefleet_server.db.database import Database, metadata
from edgefleet_server.process.backup import backup_manifest as naming
from edgefleet_server.process.backup.backup_catalog import ManifestProof, manifest_bytes, names_of
from edgefleet_server.process.backup.backup_manifest import BlobEntry, DatabasePart, KeysPart, Manifest, TableEntry
from edgefleet_server.process.backup.backup_places import BackupPlace, read_small
from edgefleet_server.process.backup.database_reader import Batch, Reader, reading
from edgefleet_server.process.backup.errors import PlainKeysError
from edgefleet_server.process.backup.row_files import write_rows
from edgefleet_server.process.backup.table_shapes import TableShape, shapes_of
from edgefleet_server.process.backup_keys import key_archive, passphrase_key
from edgefleet_server.process.backup_keys.recipient_key import Recipient
from edgefleet_server.registry import blobs
from edgefleet_server.registry.errors import BlobUnknownError
from edgefleet_server.setting_sources import SettingsError
from edgefleet_server.settings import ServerSettings, secret_names

DRAFT_AGE: Final = timedelta(hours=24)
"""An older database of a run that was killed is taken again."""
DRAFT: Final = "database.json"
BLOB_TABLES: Final = {"blobs": ("sha256", "length", "discarded_at"), "prediction_file": ("sha256", "bytes", "is_whole")}
"""Tables that name blobs: digest, length, and what says whether the bytes must be there."""
Progress = Callable[[str, int, int, str], None]
"""Takes a stage, how much of it is done, how much there is, and what is done just now."""


@dataclass(frozen=True, slots=True)
class KeysChoice:
    """What happens to the keys. passphrase, recipient: they are sealed by that; leaves_out: they are not in the backup."""

    passphrase: bytes | None = None
    leaves_out: bool = False
    recipient: Recipient | None = None

    @property
    def is_sealed(self) -> bool:
        """Whether nobody can read them in the backup."""
        return self.passphrase is not None or self.recipient is not None


class _Draft(msgspec.Struct, frozen=True):
    database: DatabasePart
    blobs: list[BlobEntry]


@dataclass(frozen=True, slots=True)
class Made:
    """A backup that was made. copied: blobs that were copied now, and their bytes; resumed: a killed run was gone on with."""

    manifest: Manifest
    digest: str
    copied: int
    copied_bytes: int
    resumed: bool


class BackupWriter:
    """Makes backups of one server in one place. Calls block for as long as it takes."""

    def __init__(self, settings: ServerSettings, place: BackupPlace, clock: Clock, progress: Progress) -> None:
        """Wire the parts."""
        self._settings = settings
        self._place = place
        self._clock = clock
        self._progress = progress
        self._store = blobs.open_blob_store(settings)
        self._copied = self._copied_bytes = 0

    def make(self, keys: KeysChoice) -> Made:
        """Make a backup. Raises EdgefleetError, OSError; what is there then is used by the next run."""
        self._check_keys(keys)
        found = self._unfinished()
        resumed = found is not None
        name, draft = found or self._take_database()
        missing = self._copy_blobs(draft.blobs)
        if missing:  # removed meanwhile, as when a release is withdrawn: the database of now does not name them
            self._drop(name)
            name, draft = self._take_database()
            missing = self._copy_blobs(draft.blobs)
        manifest, digest = self._seal(name, draft, missing, keys)
        return Made(manifest, digest, self._copied, self._copied_bytes, resumed)

    def _check_keys(self, keys: KeysChoice) -> None:
        if keys.leaves_out:
            _refuse_secret_settings(self._settings.data_dir)
        elif not keys.is_sealed and not self._place.is_private:
            raise PlainKeysError(
                "the keys would lie in plain where others may read them",
                next_step="give --recipient FILE, --keys-passphrase-file FILE or --without-keys, or a folder of yours alone (chmod 700)",
            )

    # -- the database ----------------------------------------------------------------------------------------------------

    def _unfinished(self) -> tuple[str, _Draft] | None:
        """Return what a killed run has left, where it can be used; remove what cannot."""
        whole, begun = names_of(self._place)
        found: tuple[str, _Draft] | None = None
        for name in begun:
            draft = self._draft_of(name)
            if draft is None or found is not None or self._clock.now() - draft.database.taken_at > DRAFT_AGE:
                self._drop(name)
            else:
                found = name, draft
        del whole
        return found

    def _draft_of(self, name: str) -> _Draft | None:
        file = f"{naming.folder_of(name)}/{DRAFT}"
        if file not in self._place.sizes(naming.folder_of(name)):
            return None
        return msgspec.json.decode(read_small(self._place, file), type=_Draft)

    def _drop(self, name: str) -> None:
        for file in self._place.sizes(naming.folder_of(name)):
            self._place.remove(file)

    def _take_database(self) -> tuple[str, _Draft]:
        """Write all tables as they are at one moment, and what blobs they name."""
        now = self._clock.now()
        name, db = naming.name_of(now), Database(self._settings.database)
        try:
            db.ping()
            if not migrations.is_current(db):
                raise SettingsError(
                    "the database has the tables of another version",
                    next_step="bring it up to date: `edgectl server upgrade-schema`",
                )
            named: dict[str, BlobEntry] = {}
            with reading(db) as reader:
                tables = list(self._write_tables(name, reader, named))
                part = DatabasePart(now, db.engine.dialect.name, reader.revision(), reader.counters(), tables)
        finally:
            db.dispose()
        draft = _Draft(part, list(named.values()))
        self._put_bytes(f"{naming.folder_of(name)}/{DRAFT}", msgspec.json.encode(draft))
        return name, draft

    def _write_tables(self, name: str, reader: Reader, named: dict[str, BlobEntry]) -> Iterator[TableEntry]:
        shapes = shapes_of(metadata())
        for done, shape in enumerate(shapes):
            self._progress("database", done, len(shapes), shape.name)
            file = self._place.scratch()
            written = write_rows(file, _noting_blobs(shape, reader.batches(shape), named))
            if written.rows:
                self._place.put(naming.table_name(name, shape.name), file)
            else:
                file.unlink()
            yield TableEntry(shape, written)
        self._progress("database", len(shapes), len(shapes), "")

    # -- blobs -----------------------------------------------------------------------------------------------------------

    def _copy_blobs(self, wanted: list[BlobEntry]) -> list[str]:
        """Copy what the place lacks; return the digests that the server lacks itself."""
        there = self._place.sizes(naming.BLOBS)
        total, missing = sum(one.bytes for one in wanted), list[str]()
        done = 0
        for one in wanted:
            target = naming.blob_name(one.sha256)
            self._progress("blobs", done, total, one.sha256[:12])
            if there.get(target) != one.bytes:
                if self._copy(one, target):
                    there[target] = one.bytes
                    self._copied += 1
                    self._copied_bytes += one.bytes
                else:
                    missing.append(one.sha256)
            done += one.bytes
        self._progress("blobs", total, total, "")
        return missing

    def _copy(self, one: BlobEntry, target: str) -> bool:
        file = self._place.scratch()
        try:
            blobs.save(self._store, Sha256(one.sha256), one.bytes, file)
        except BlobUnknownError:
            file.unlink(missing_ok=True)
            return False
        self._place.put(target, file)
        return True

    # -- keys and manifest -----------------------------------------------------------------------------------------------

    def _seal(self, name: str, draft: _Draft, missing: list[str], keys: KeysChoice) -> tuple[Manifest, str]:
        """Write keys and manifest; the backup is whole then."""
        self._progress("keys", 0, 1, "")
        folder, data = naming.folder_of(name), self._settings.data_dir
        part, stored, proof = _stored_keys(data, name, keys)
        self._put_bytes(f"{folder}/keys", stored)
        former, _ = names_of(self._place)
        previous = hashlib.sha256(manifest_bytes(self._place, former[-1])).hexdigest() if former else ""
        manifest = Manifest(
            naming.FORMAT,
            name,
            version("edgefleet"),
            self._clock.now(),
            draft.database,
            draft.blobs,
            missing,
            part,
            previous,
        )
        document = msgspec.json.format(msgspec.json.encode(manifest), indent=1)
        if proof is not None:
            self._put_bytes(f"{folder}/manifest.mac", proof.mac_of(document).hex().encode())
        self._put_bytes(f"{folder}/backup.json", document)
        self._place.remove(f"{folder}/{DRAFT}")
        self._place.finish()
        self._progress("keys", 1, 1, "")
        return manifest, hashlib.sha256(document).hexdigest()

    def _put_bytes(self, name: str, content: bytes) -> None:
        file = self._place.scratch()
        file.write_bytes(content)
        self._place.put(name, file)


def _stored_keys(data: Path, name: str, keys: KeysChoice) -> tuple[KeysPart, bytes, ManifestProof | None]:
    """Return what the manifest says of the keys, their archive as it is stored, and what authenticates the manifest."""
    form, recipient = "plain", ""
    proof: ManifestProof | None = None
    stored = key_archive.settings_of(data) if keys.leaves_out else key_archive.archive_of(data)
    if keys.leaves_out:
        form = "none"
    elif keys.recipient is not None:
        form, recipient, proof = "recipient", keys.recipient.key_id, keys.recipient
        stored = keys.recipient.sealed(stored, name)
    elif keys.passphrase is not None:
        made = passphrase_key.keys_of(keys.passphrase, passphrase_key.new_salt())
        form, proof, stored = "sealed", made, passphrase_key.sealed(stored, made)
    return KeysPart(form, len(stored), hashlib.sha256(stored).hexdigest(), recipient), stored, proof


def _noting_blobs(shape: TableShape, batches: Iterator[Batch], named: dict[str, BlobEntry]) -> Iterator[Batch]:
    """Yield batches on, and note the blobs that their rows name."""
    columns = BLOB_TABLES.get(shape.name)
    if columns is None:
        yield from batches
        return
    names = [column.name for column in shape.columns]
    digest, length, state = (names.index(one) for one in columns)
    for batch in batches:
        for row in batch.rows:
            if row[state] == (1 if columns[2] == "is_whole" else None):
                named[row[digest]] = BlobEntry(row[digest], row[length])
        yield batch


def blobs_named(reader: Reader) -> Iterator[BlobEntry]:
    """Yield the blobs that a database names, once each."""
    named: dict[str, BlobEntry] = {}
    for shape in shapes_of(metadata()):
        if shape.name in BLOB_TABLES:
            for _ in _noting_blobs(shape, reader.batches(shape), named):
                pass
    yield from named.values()


def _refuse_secret_settings(data: Path) -> None:
    """Raise PlainKeysError where the settings, which go into a backup without keys, hold a secret."""
    import tomllib

    given = tomllib.loads((data / key_archive.FILES[0]).read_text(encoding="utf-8"))
    found = [name for name in secret_names() if name in given and name != "database_url"]
    if "client_secret" in json.dumps(given.get("identity_providers", [])):
        found.append("client_secret of identity_providers")
    if (
        "@" in str(given.get("database_url", ""))
        and ":" in str(given["database_url"]).split("://", 1)[-1].split("@", 1)[0]
    ):
        found.append("the password in database_url")
    if found:
        raise PlainKeysError(
            f"server.toml, which a backup without keys holds in plain, has secrets: {', '.join(found)}",
            next_step="move each into a file of its own (NAME_file), or give --keys-passphrase-file instead",
        )
