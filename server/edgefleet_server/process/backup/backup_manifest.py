"""What a backup says of itself. Does no I/O.

`backup.json` is written last: a backup without it is not whole. It names every file by its SHA-256, and the manifest before it in the
same place by its own: so one that was taken away or exchanged is noticed. Where the keys are sealed, `manifest.mac` proves that it was
written by somebody who has the passphrase (ADR 0151) or the recipient (ADR 0155).
"""

from datetime import datetime
from typing import Final

import msgspec

from edgefleet_server.process.backup.row_files import WrittenTable
from edgefleet_server.process.backup.table_shapes import TableShape

FORMAT: Final = 1
SNAPSHOTS: Final = "snapshots"
BLOBS: Final = "blobs"


class TableEntry(msgspec.Struct, frozen=True):
    """One table."""

    shape: TableShape
    written: WrittenTable


class BlobEntry(msgspec.Struct, frozen=True, array_like=True):
    """One blob that the database names. path: "", or in backups of earlier versions where in the data folder a file was."""

    sha256: str
    bytes: int
    path: str = ""


class DatabasePart(msgspec.Struct, frozen=True):
    """The database at one moment. counters: the last number drawn for a table, where it draws none twice."""

    taken_at: datetime
    kind: str
    revision: str
    counters: dict[str, int]
    tables: list[TableEntry]

    @property
    def rows(self) -> int:
        """Rows of all tables."""
        return sum(one.written.rows for one in self.tables)


class KeysPart(msgspec.Struct, frozen=True):
    """The archive of keys, settings and first token. form: sealed (by a passphrase), recipient, plain or none.

    recipient: id of the key pair that it is sealed to.
    """

    form: str
    bytes: int = 0
    sha256: str = ""
    recipient: str = ""


class Manifest(msgspec.Struct, frozen=True):
    """A whole backup. previous: SHA-256 of the manifest before it in this place, "" for the first; version: of edgefleet."""

    format: int
    name: str
    version: str
    made_at: datetime
    database: DatabasePart
    blobs: list[BlobEntry]
    missing_blobs: list[str]
    keys: KeysPart
    previous: str

    @property
    def size(self) -> int:
        """Bytes of all its files, those that it shares with other backups as well."""
        tables = sum(one.written.bytes for one in self.database.tables)
        return tables + sum(one.bytes for one in self.blobs) + self.keys.bytes


def name_of(moment: datetime) -> str:
    """Return the name of a backup that begins at a moment; names sort by time."""
    return moment.strftime("%Y%m%dT%H%M%S.%fZ")


def folder_of(name: str) -> str:
    """Return where the files of a backup are."""
    return f"{SNAPSHOTS}/{name}"


def blob_name(sha256: str) -> str:
    """Return where a blob is. All backups of a place share it."""
    return f"{BLOBS}/{sha256[:2]}/{sha256}"


def table_name(name: str, table: str) -> str:
    """Return where the rows of a table are."""
    return f"{folder_of(name)}/tables/{table}.rows"
