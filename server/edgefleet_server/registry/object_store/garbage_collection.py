"""Blobs that nothing names: they are marked, and removed when they still are unnamed days later (ADR 0159).

* A blob is removed only when it was neither uploaded nor asked for since `old`, has been marked since `old`, and a second look, begun
  after the marks were committed, does not find its name either.
* A transaction that names a blob holds its record and clears the mark (`store.blob_lengths`); an upload, and a client that
  asks whether a blob is there, renew it. So what is named after the second look is not marked any more, and stays.
* A mark hides nothing: a marked blob can be read and named as before.
* Bytes without a record are removed when they are old. Their record is made first, discarded: an upload of the same bytes then waits.
"""

from collections.abc import Callable, Collection, Iterator, Sequence, Set
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from edgefleet_protocol.clock import Clock
from edgefleet_protocol.digest import Sha256
from edgefleet_server.db.database import Database
from edgefleet_server.registry import store
from edgefleet_server.registry.blobs import BlobStore, StoredBlob

AT_ONCE: Final = 500
"""So many blobs are marked in one transaction."""


@dataclass(frozen=True, slots=True)
class UnnamedBlob:
    """A blob that nothing names. last_used: when it was uploaded or asked for; marked_at: None = not marked yet."""

    sha256: Sha256
    length: int
    last_used: datetime
    marked_at: datetime | None


@dataclass(frozen=True, slots=True)
class Inventory:
    """All blobs as they were at one moment. named_again: digests that are marked and that something names."""

    count: int
    bytes: int
    unnamed: Sequence[UnnamedBlob]
    named_again: Sequence[Sha256]


class UnnamedBlobs:
    """Marks and removes blobs that nothing names. Which names there are is its callers' to know. Calls block."""

    def __init__(
        self, db: Database, blob_store: BlobStore, clock: Clock, drop: Callable[[Sequence[Sha256]], int]
    ) -> None:
        """Wire the parts. drop: removes discarded blobs, and returns how many could not be removed."""
        self._db = db
        self._blobs = blob_store
        self._clock = clock
        self._drop = drop

    def keep(self, sha256: Sha256) -> None:
        """Let a blob live on for a client that may name it next."""
        with self._db.read() as session:
            is_marked = store.is_marked(session, sha256)
        if is_marked:
            with self._db.session() as session:
                store.renew_blob(session, sha256, self._clock.now())

    def inventory(self, named: Set[str]) -> Inventory:
        """Return all blobs, divided by whether they are named."""
        count = size = 0
        unnamed: list[UnnamedBlob] = []
        named_again: list[Sha256] = []
        with self._db.read() as session:
            for sha256, length, last_used, marked_at in store.blob_ages(session):
                count, size = count + 1, size + length
                if sha256 not in named:
                    unnamed.append(UnnamedBlob(Sha256(sha256), length, last_used, marked_at))
                elif marked_at is not None:
                    named_again.append(Sha256(sha256))
        return Inventory(count, size, unnamed, named_again)

    def total(self) -> tuple[int, int]:
        """Return how many blobs are marked, and their bytes."""
        with self._db.read() as session:
            return store.unnamed_total(session)

    def mark(self, digests: Collection[Sha256], old: datetime) -> int:
        """Mark blobs that were last used before `old`; return how many were marked now."""
        marked = 0
        for some in _batches(digests):
            with self._db.session() as session:
                marked += store.mark_unnamed(session, some, old, self._clock.now())
        return marked

    def unmark(self, digests: Collection[Sha256]) -> None:
        """Take the marks from blobs that something names."""
        for some in _batches(digests):
            with self._db.session() as session:
                store.unmark(session, some)

    def remove(self, sha256: Sha256, old: datetime) -> bool | None:
        """Remove a blob that has been marked and unused since `old`; None: it was used meanwhile, False: its bytes could not be removed.

        Call it only with what is unnamed in a look that began after the marks were committed.
        """
        with self._db.session() as session:
            if not store.discard_marked(session, sha256, old, self._clock.now()):
                return None
        return not self._drop([sha256])

    def strays(self, old: datetime, known: Set[str]) -> Iterator[StoredBlob]:
        """Yield what the store has without a record, unchanged since `old`. known: digests that other records name.

        Raises BlobStoreError.
        """
        listed = [one for one in self._blobs.list() if one.stored_at <= old and one.sha256 not in known]
        with self._db.read() as session:
            recorded = store.recorded_digests(session)
        yield from (one for one in listed if one.sha256 not in recorded)

    def remove_stray(self, one: StoredBlob) -> bool | None:
        """Remove bytes without a record; None: they have one now, False: they could not be removed."""
        with self._db.session() as session:
            if not store.add_discarded(session, one.sha256, one.length, self._clock.now()):
                return None
        return not self._drop([one.sha256])


def _batches(digests: Collection[Sha256]) -> Iterator[list[Sha256]]:
    ordered = sorted(digests)
    return (ordered[start : start + AT_ONCE] for start in range(0, len(ordered), AT_ONCE))
