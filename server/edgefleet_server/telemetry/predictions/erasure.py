"""Erasing a subject: its rows in every prediction log, what was captured of the same answers, and what devices still have (ADR 0105).

1. First it is written down who is erased, under the lock that taking parts in needs: what comes from then on is erased as it comes.
2. Then what waits is rewritten, and each file with a row of the subject is replaced by one without; the old bytes are removed. The hash of
   a row stays in its place, so that the log can still be checked.
3. Devices learn it from their next document. The receipt says what was found; the subject itself is in no table, no log and no receipt.
4. Captured records, labels and the records in noted data sets are found by the traces of the rows; data sets are outside of the server, so
   the receipt names those that still have to lose something (`edgectl data purge`). Each erased row leaves a tombstone (`tombstones`),
   by which a label, a captured record or a data set that comes later is known; the receipt counts what was dropped so.
5. At the end the database overwrites what it freed (`Database.overwrite_freed`). What it cannot do then is done by the tick; until then the
   receipt says that it is not.
"""

import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final

from sqlmodel import Session

from edgefleet_protocol.clock import Clock
from edgefleet_protocol.errors import BadMessageError
from edgefleet_protocol.prediction_parts import Part, Row, erase, pack_part, pseudonym, unpack_part
from edgefleet_server.db.database import Database
from edgefleet_server.events.log import EventLog
from edgefleet_server.events.model import NewEvent
from edgefleet_server.fleet.desired.prediction_logs import LogRule, PredictionLogBook
from edgefleet_server.registry.errors import BlobUnknownError
from edgefleet_server.telemetry.errors import ErasureUnfinishedError, ErasureUnknownError, PredictionLogUnknownError
from edgefleet_server.telemetry.predictions import parquet, store
from edgefleet_server.telemetry.predictions.data_set_book import DataSetBook
from edgefleet_server.telemetry.predictions.model import ErasedDataSet, Erasure
from edgefleet_server.telemetry.predictions.service import PredictionLogs
from edgefleet_server.telemetry.predictions.tables import DataSet, DataSetPurge, PredictionErasure, PredictionFile
from edgefleet_server.telemetry.predictions.tombstones import KEPT, Tombstones

ALWAYS: Final = 2**53
OVERWRITTEN: Final = ("prediction_part", "telemetry_capture", "truth_label", "feedback_part", "data_set_record")
"""Tables of which rows go, as PostgreSQL writes them again."""
WAL: Final = "PostgreSQL's write-ahead log holds it until its segments are used again, its archive and standbys as long as you keep these"
TRIES: Final = 5


class _Found:
    """What is gone so far."""

    def __init__(self, erasure: str, model: str, tombstones: Tombstones, now: datetime) -> None:
        self._erasure, self._model, self._tombstones, self._now = erasure, model, tombstones, now
        self.rows = self.files = self.captures = 0

    def drop_captures(self, session: Session, device: str, gone: Sequence[Row]) -> None:
        """Remove what was captured of answers whose rows go: before them, as nothing else says which they are."""
        traces = {row.trace_id for row in gone}
        self.captures += self._tombstones.forget(session, self._erasure, self._model, device, traces, self._now)


def _gone(before: Part, after: Part) -> list[Row]:
    left = {row.seq for row in after.rows}
    return [row for row in before.rows if row.seq not in left]


class Erasures:
    """Erases subjects and shows the receipts. Thread-safe; calls block."""

    def __init__(
        self,
        db: Database,
        clock: Clock,
        book: PredictionLogBook,
        logs: PredictionLogs,
        feed: EventLog,
        backup_keep_days: int = 0,
    ) -> None:
        """Wire the parts. backup_keep_days: how long backups are kept, 0 = nobody said it."""
        self._tombstones = Tombstones(book)
        self.data_sets = DataSetBook(db, clock, self._tombstones)
        self._backup_keep = timedelta(days=backup_keep_days)
        self._db = db
        self._clock = clock
        self._book = book
        self._logs = logs
        self._feed = feed

    def erase(self, subject: str, models: Sequence[str], by: str) -> Erasure:
        """Erase a subject from the logs of these models, or of all, and return the receipt.

        Raises PredictionLogUnknownError, NoParquetError, BlobStoreError, ErasureUnfinishedError; then it is asked again and goes on.
        """
        rules = [rule for rule in self._book.rules() if not models or rule.model in models]
        if unknown := sorted(set(models) - {rule.model for rule in rules}):
            raise PredictionLogUnknownError(
                f"the model {unknown[0]} has no prediction log",
                next_step="see which have one: `edgectl predictions list`",
            )
        erasure = f"e-{secrets.token_hex(8)}"
        asked: set[str] = set()
        unfinished: ErasureUnfinishedError | None = None
        for rule in rules:
            try:
                self._erase(erasure, rule, pseudonym(bytes.fromhex(rule.subject_key), subject), by, asked)
            except ErasureUnfinishedError as error:  # the other models are erased all the same
                unfinished = error
        if unfinished is not None:
            raise unfinished
        if rules:
            self._overwrite(erasure, dict.fromkeys(OVERWRITTEN, ""))
        with self._db.session():
            detail = {"erasure": erasure, "models": [rule.model for rule in rules]}
            self._feed.add([NewEvent("subject_erased", detail=detail)])
        return self.receipt(erasure) if rules else _nothing(erasure, self._clock.now(), by)

    def _erase(self, erasure: str, rule: LogRule, subject: bytes, by: str, asked: set[str]) -> None:
        """Erase from one log. asked: devices that the receipt counts already."""
        now = self._clock.now()
        until_ms = int(now.timestamp() * 1_000)
        row = PredictionErasure(
            id=erasure, model=rule.model, subject=subject.hex(), until_ms=until_ms, asked_at=now, asked_by=by[:120],
            rows=0, captures=0, files=0, devices=0,
        )  # fmt: skip
        with self._db.session() as session:
            self._book.erase(rule.model, subject.hex(), until_ms)
            session.add(row)
        found = _Found(erasure, rule.model, self._tombstones, now)
        finished_at: datetime | None = None
        try:
            self._from_waiting(rule.model, subject, found)
            self._from_files(rule.model, subject, found)
            finished_at = self._clock.now()
        finally:
            with self._db.session() as session:
                kept = store.erasure(session, erasure, rule.model)
                kept.rows, kept.captures, kept.files = found.rows, found.captures, found.files
                devices = set(store.devices(session, rule.model))
                kept.devices, kept.finished_at = len(devices - asked), finished_at
        asked |= devices

    def _from_waiting(self, model: str, subject: bytes, found: _Found) -> None:
        with self._db.session() as session:
            for row in store.unpacked(session, model, None, lock=True):
                assert row.body is not None, "asked for those"
                before = unpack_part(row.body)
                after = erase(before, {subject: ALWAYS}, ALWAYS)
                if after is not before:
                    row.body, row.rows = pack_part(after), len(after.rows)
                    gone = _gone(before, after)
                    found.rows += len(gone)
                    found.drop_captures(session, row.device_id, gone)

    def _from_files(self, model: str, subject: bytes, found: _Found) -> None:
        """Replace the files that have rows of a subject; what others pack or erase meanwhile is looked at again."""
        for _ in range(TRIES):
            with self._db.read() as session:
                files = store.files(session, model)
            had, unread = False, 0
            for file in files:
                try:
                    had |= self._from_file(file, subject, found)
                except (BlobUnknownError, BadMessageError, ValueError):  # the others are erased all the same
                    unread += 1
            if unread and not had:
                raise ErasureUnfinishedError(
                    f"files of the prediction log of {model} that cannot be read: {unread}; the others are done",
                    next_step=f"see which: `edgectl predictions verify {model}`. Then erase the subject again",
                )
            if not had:
                return
        raise ErasureUnfinishedError(
            f"files of the prediction log of {model} were changed {TRIES} times while rows were erased from them",
            next_step="erase the subject again: what is gone stays gone",
        )

    def _from_file(self, file: PredictionFile, subject: bytes, found: _Found) -> bool:
        """Return whether the file had rows of the subject, or has been replaced or let go meanwhile."""
        try:
            known = parquet.read_parts(self._logs.read_file(file.model, file.sha256))
        except PredictionLogUnknownError:
            return True
        after = {key: erase(part, {subject: ALWAYS}, ALWAYS) for key, (part, _) in known.items()}
        if all(after[key] is known[key][0] for key in known):
            return False
        with self._db.read() as session:
            rows = store.parts_of_file(session, file.sha256)
        if not rows:
            return True
        parts = [after[parquet.PartKey(row.device_id, row.log, row.part)] for row in rows]
        gone = {key: _gone(part, after[key]) for key, (part, _) in known.items()}
        with self._db.session() as session:
            for key, some in gone.items():
                found.drop_captures(session, key.device, some)
        if self._logs.write_file(file.model, parts, rows, file.sha256):
            found.files += 1
            found.rows += sum(map(len, gone.values()))
            self._logs.drop_file(file.sha256)
        return True

    def tick(self, now: datetime) -> None:
        """Delete tombstones that are older than KEPT, and overwrite what could not be before. For the engine, hourly."""
        with self._db.session() as session:
            store.delete_tombstones_before(session, now - KEPT)
        with self._db.read() as session:
            waiting = store.unwritten(session)
        for erasure, tables in waiting.items():
            self._overwrite(erasure, tables or dict.fromkeys(OVERWRITTEN, ""), before=tables)

    def _overwrite(self, erasure: str, tables: Mapping[str, str], before: Mapping[str, str] | None = None) -> None:
        """Overwrite what an erasure freed in these tables, and note what is left. One that was written again since is done, by anybody.

        tables: with the file that held the freed rows, "" where it is not known: any that there is now. before: as `set_unwritten` has it.
        """
        now = self._db.table_files(sorted(tables))
        wanted = {name: now[name] for name, file in tables.items() if file in {"", now[name]}}
        with self._db.session() as session:
            store.set_unwritten(session, erasure, wanted, before)
        if wanted:
            left = self._db.overwrite_freed(sorted(wanted))
            with self._db.session() as session:
                store.set_unwritten(session, erasure, {name: wanted[name] for name in left}, before=wanted)

    # ---- receipts

    def receipts(self) -> list[Erasure]:
        """Return all receipts, newest first."""
        with self._db.read() as session:
            rows = list(store.erasures(session))
            ids = list(dict.fromkeys(row.id for row in rows))
            asked = store.purges(session, ids)
        return [
            self._receipt([row for row in rows if row.id == one], [pair for pair in asked if pair[0].erasure == one])
            for one in ids
        ]

    def receipt(self, erasure_id: str) -> Erasure:
        """Return one receipt. Raises ErasureUnknownError."""
        with self._db.read() as session:
            rows = list(store.erasures(session, erasure_id)) if erasure_id.isprintable() else []
            asked = store.purges(session, [erasure_id]) if rows else []
        if not rows:
            raise ErasureUnknownError(f"there is no erasure {erasure_id}", next_step="list them: `edgectl data list`")
        return self._receipt(rows, asked)

    def _receipt(self, rows: Sequence[PredictionErasure], asked: Sequence[tuple[DataSetPurge, DataSet]]) -> Erasure:
        first = rows[0]
        finished = [row.finished_at for row in rows if row.finished_at is not None]
        return Erasure(
            id=first.id,
            asked_at=first.asked_at,
            asked_by=first.asked_by,
            models=[row.model for row in rows],
            rows=sum(row.rows for row in rows),
            captures=sum(row.captures for row in rows),
            files=sum(row.files for row in rows),
            devices=sum(row.devices for row in rows),
            finished_at=max(finished) if len(finished) == len(rows) else None,
            overwritten=all(row.overwritten for row in rows),
            late=sum(row.late for row in rows),
            remains=self._remains(rows),
            data_sets=[
                ErasedDataSet(one.id, one.model, one.place, one.made_by, purge.records, purge.done_at)
                for purge, one in asked
            ],
            backups_until=first.asked_at + self._backup_keep if self._backup_keep else None,
        )

    def _remains(self, rows: Sequence[PredictionErasure]) -> list[str]:
        """Return what the database may still hold of the subject, and what ends that."""
        found: list[str] = []
        open_ = [row for row in rows if not row.overwritten]
        if open_ and self._db.is_sqlite:
            found.append("not yet overwritten: the write-ahead log of SQLite; the server tries every hour")
        elif open_:
            tables = sorted({name for row in open_ for name in row.unwritten or OVERWRITTEN})
            named = ", ".join(f'"{name}"' for name in tables)
            found.append(
                f"not yet overwritten: {', '.join(tables)}: large, in use, or changed since; the server tries every hour. "
                f"At a quiet hour: VACUUM (FULL) {named}"
            )
        return found if self._db.is_sqlite else [*found, WAL]


def _nothing(erasure: str, now: datetime, by: str) -> Erasure:
    """Return the receipt where no model has a log."""
    return Erasure(erasure, now, by, [], 0, 0, 0, 0, now)
