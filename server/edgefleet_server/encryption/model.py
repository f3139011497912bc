"""Values of sealing: keys, places of secrets, and what the list of secrets says. Pure."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any


@dataclass(frozen=True, slots=True)
class SealingKey:
    """An AES-256 key. id: of its digest, 16 hex digits; stands in every text that it sealed."""

    id: str
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class KeyRing:
    """The keys of a source, the newest first: that one seals, all of them open. Never empty."""

    keys: tuple[SealingKey, ...]

    @property
    def newest(self) -> SealingKey:
        """The first key."""
        return self.keys[0]

    def find(self, key_id: str) -> SealingKey | None:
        """Return the key with an id."""
        return next((one for one in self.keys if one.id == key_id), None)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a secret stands. row: of the columns that name the row, joined by a slash. A sealed text opens at its place only."""

    table: str
    column: str
    row: str

    def __str__(self) -> str:
        """Return it as people read it."""
        return f"{self.table}.{self.column} {self.row}"


@dataclass(frozen=True, slots=True)
class SealedValue:
    """A sealed text and its place."""

    place: Place
    text: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class SealedColumn:
    """A column whose texts are sealed. row: columns that name a row; since: column with the time of the secret."""

    what: str
    table: str
    column: str
    row: tuple[str, ...]
    since: str

    def place(self, *names: Any) -> Place:
        """Return the place of a row. names: values of the columns `row`, in their order."""
        assert len(names) == len(self.row)
        return Place(self.table, self.column, "/".join(map(str, names)))


@dataclass(frozen=True, slots=True)
class StoredSecret:
    """A secret in the database: what it is, where, the text as it stands there, since when (None: not known)."""

    what: str
    place: Place
    text: str = field(repr=False)
    since: datetime | None


class Kept(StrEnum):
    """How a secret is kept."""

    SEALED = "sealed"
    PLAIN = "plain"
    """In the database, readable."""
    BROKEN = "broken"
    """In the database, and no key opens it."""
    FILE = "file"
    ENVIRONMENT = "environment"
    VAULT = "vault"
    ARGUMENT = "argument"
    """Of the command line."""


@dataclass(frozen=True, slots=True)
class SecretEntry:
    """A line of the list of secrets. mode: of a file; since: when it was made or its file written; problem: "" = none."""

    what: str
    where: str
    kept: Kept
    mode: str = ""
    key: str = ""
    since: datetime | None = None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Resealed:
    """What a change of keys did. key: that seals now; values: that were sealed again; is_clean: nothing of before is in the files."""

    key: str
    values: int
    is_clean: bool
