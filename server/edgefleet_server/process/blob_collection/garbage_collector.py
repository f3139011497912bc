"""One run of garbage collection: look, mark, look again, remove (ADR 0159); and end uploads that were cut off (ADR 0169)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from edgefleet_protocol.clock import Clock
from edgefleet_server.db.database import Database
from edgefleet_server.process.blob_collection.name_reader import named_digests
from edgefleet_server.registry.blobs import StoredBlob
from edgefleet_server.registry.object_store.garbage_collection import Inventory, UnnamedBlob, UnnamedBlobs
from edgefleet_server.registry.object_store.unfinished_uploads import LEFT_ALONE, UnfinishedUploads

ACTOR: Final = "edgectl server garbage-collect"
Progress = Callable[[str, int, int, str], None]
"""Takes a stage, how much of it is done, how much there is, and what is done just now."""
Record = Callable[[str, str, str, int, str], None]
"""Appends one row to the audit trail."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What a run may do. grace: how long a blob is left that nothing names. strays: also bytes without a record."""

    grace: timedelta
    deletes: bool
    strays: bool = False


@dataclass(slots=True)
class Amount:
    """Some blobs. oldest: when the one of them was last used that was left alone longest."""

    count: int = 0
    bytes: int = 0
    oldest: datetime | None = None

    def add(self, length: int, used: datetime) -> None:
        """Count one more."""
        self.count, self.bytes = self.count + 1, self.bytes + length
        self.oldest = used if self.oldest is None else min(self.oldest, used)

    def document(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            "count": self.count,
            "bytes": self.bytes,
            "oldest": None if self.oldest is None else self.oldest.isoformat(),
        }


@dataclass(slots=True)
class _Found:
    """The blobs that nothing names, by what is to become of them."""

    young: Amount = field(default_factory=Amount)
    waiting: Amount = field(default_factory=Amount)
    due: Amount = field(default_factory=Amount)
    to_mark: list[UnnamedBlob] = field(default_factory=list)
    to_remove: list[UnnamedBlob] = field(default_factory=list)
    next_due: datetime | None = None


class Collector:
    """Finds and removes blobs that nothing names. Calls block for as long as it takes; a server may run meanwhile."""

    def __init__(
        self,
        db: Database,
        blobs: UnnamedBlobs,
        uploads: UnfinishedUploads,
        record: Record,
        clock: Clock,
        progress: Progress,
    ) -> None:
        """Wire the parts."""
        self._db = db
        self._blobs = blobs
        self._uploads = uploads
        self._record = record
        self._clock = clock
        self._progress = progress

    def run(self, terms: Terms) -> dict[str, Any]:
        """Look, and remove what is due where the terms say so; return what was found and done. Raises BlobStoreError, SQLAlchemyError.

        What an earlier run left half done is gone on with.
        """
        now = self._clock.now()
        old = now - terms.grace
        named = self._named("look")
        inventory = self._blobs.inventory(named)
        found = _sorted(inventory, old, now, terms.grace)
        marked, deleted, failed = 0, Amount(), 0
        if terms.deletes:
            self._blobs.unmark(inventory.named_again)
            marked = self._blobs.mark([one.sha256 for one in found.to_mark], old)
            if found.to_remove or terms.grace <= timedelta(0):
                failed += self._remove(old, deleted)
        strays = self._strays(old, named, now)
        strays_deleted = Amount()
        if terms.deletes and terms.strays:
            failed += self._remove_strays(strays, strays_deleted)
        uploads = self._cut_off(now, deletes=terms.deletes)
        failed += uploads["failed"]
        if terms.deletes and (marked or deleted.count or strays_deleted.count or uploads["ended"] or failed):
            self._note(marked, deleted, strays_deleted, uploads["ended"], failed)
        stray_amount = Amount()
        for one in strays:
            stray_amount.add(one.length, one.stored_at)
        return {
            "is_dry_run": not terms.deletes,
            "grace_days": terms.grace / timedelta(days=1),
            "blobs": {"count": inventory.count, "bytes": inventory.bytes},
            "young": found.young.document(),
            "waiting": found.waiting.document(),
            "next_due": None if found.next_due is None else found.next_due.isoformat(),
            "due": found.due.document(),
            "strays": stray_amount.document(),
            "marked": marked,
            "deleted": deleted.document(),
            "strays_deleted": strays_deleted.document(),
            "unfinished": {name: value for name, value in uploads.items() if name != "failed"},
            "failed": failed,
        }

    def _named(self, stage: str) -> frozenset[str]:
        return named_digests(self._db, lambda done, total, name: self._progress(stage, done, total, name))

    def _remove(self, old: datetime, deleted: Amount) -> int:
        """Look again, and remove what is marked long enough and still unnamed; return how many could not be removed."""
        failed = 0
        again = self._blobs.inventory(self._named("look again"))
        due = [one for one in again.unnamed if _is_due(one, old)]
        for done, one in enumerate(due):
            self._progress("delete", done, len(due), one.sha256[:12])
            is_gone = self._blobs.remove(one.sha256, old)
            if is_gone:
                deleted.add(one.length, one.last_used)
            failed += is_gone is False
        self._progress("delete", len(due), len(due), "")
        return failed

    def _strays(self, old: datetime, named: frozenset[str], now: datetime) -> Sequence[StoredBlob]:
        self._progress("list", 0, 1, "")
        found = list(self._blobs.strays(min(old, now), named))
        self._progress("list", 1, 1, "")
        return found

    def _remove_strays(self, strays: Sequence[StoredBlob], deleted: Amount) -> int:
        failed = 0
        for done, one in enumerate(strays):
            self._progress("delete strays", done, len(strays), one.sha256[:12])
            is_gone = self._blobs.remove_stray(one)
            if is_gone:
                deleted.add(one.length, one.stored_at)
            failed += is_gone is False
        self._progress("delete strays", len(strays), len(strays), "")
        return failed

    def _cut_off(self, now: datetime, *, deletes: bool) -> dict[str, Any]:
        """Find uploads that were begun and never ended; end those that are old enough where asked."""
        self._progress("uploads", 0, 1, "")
        look = self._uploads.look()
        old = [one for one in look.uploads if one.begun_at <= now - LEFT_ALONE]
        ended = 0
        for done, one in enumerate(old if deletes else []):
            self._progress("end uploads", done, len(old), one.key[-12:])
            ended += self._uploads.end(one)
        self._progress("uploads", 1, 1, "")
        oldest = min((one.begun_at for one in old), default=None)
        return {
            "count": len(old),
            "young": len(look.uploads) - len(old),
            "oldest": None if oldest is None else oldest.isoformat(),
            "ended": ended,
            "failed": len(old) - ended if deletes else 0,
            "unchecked": look.unchecked,
            "next": look.next,
        }

    def _note(self, marked: int, deleted: Amount, strays: Amount, ended: int, failed: int) -> None:
        what = f"{deleted.count} blobs ({deleted.bytes} bytes) and {strays.count} without a record ({strays.bytes} bytes) deleted"
        what += f", {ended} uploads ended" if ended else ""
        what += f", {marked} marked" + (f", {failed} failed" if failed else "")
        with self._db.session():
            self._record(ACTOR, "collect_blobs", what, 500 if failed else 200, "")


def _sorted(inventory: Inventory, old: datetime, now: datetime, grace: timedelta) -> _Found:
    """Divide what nothing names by whether it is young, waits for its mark to be old, or can go."""
    found = _Found()
    for one in inventory.unnamed:
        if one.last_used > old:
            found.young.add(one.length, one.last_used)
        elif _is_due(one, old):
            found.due.add(one.length, one.last_used)
            found.to_remove.append(one)
        else:
            found.waiting.add(one.length, one.last_used)
            due = (one.marked_at or now) + grace
            found.next_due = due if found.next_due is None else min(found.next_due, due)
        if one.last_used <= old and one.marked_at is None:
            found.to_mark.append(one)
    return found


def _is_due(one: UnnamedBlob, old: datetime) -> bool:
    return one.last_used <= old and one.marked_at is not None and one.marked_at <= old
