"""Prediction logs on the server: what is kept of which model, packed into files, checked, and let go after its days (ADR 0105).

1. Parts wait in the database until there are PACK_ROWS rows of a model or the oldest is PACK_AFTER old; then one Parquet file takes them.
   The file's row comes first, then its bytes, then its parts point to it: what a crash leaves behind is found by its row.
2. A file goes when its newest part is older than the model's days; that is in the audit trail. The newest part of each log stays as the
   floor that the next one must follow.
3. Checking reads every row of the log again, from files and from what waits.
"""

import hashlib
import logging
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final

from edgefleet_protocol.clock import Clock
from edgefleet_protocol.digest import Sha256
from edgefleet_protocol.errors import EdgefleetError
from edgefleet_protocol.prediction_parts import Part, hash_of, unpack_part
from edgefleet_server.access.service import AccessService
from edgefleet_server.db.database import Database
from edgefleet_server.fleet.desired.capture_key import CaptureKeyBook
from edgefleet_server.fleet.desired.prediction_logs import LogRule, PredictionLogBook
from edgefleet_server.registry.blobs import BlobStore, read_whole
from edgefleet_server.telemetry.errors import BadPredictionLogError, PredictionLogUnknownError
from edgefleet_server.telemetry.predictions import parquet, store
from edgefleet_server.telemetry.predictions.model import (
    CheckedPredictionLog,
    PredictionLogFile,
    PredictionLogVerification,
    PredictionLogView,
)
from edgefleet_server.telemetry.predictions.rules import ERASED, EXPIRED, SAMPLED, HeldPart, SaidHead, check_log
from edgefleet_server.telemetry.predictions.tables import PredictionFile, PredictionPart

PACK_ROWS: Final = 20_000
PACK_PARTS: Final = 500
PACK_BYTES: Final = 32 * 1024 * 1024
MAX_FILE_BYTES: Final = 256 * 1024 * 1024
HALF_FOR: Final = timedelta(hours=1)
AGAIN_AFTER: Final = timedelta(minutes=1)
"""So long a model waits whose parts could not be packed: each attempt leaves the row of a file behind."""
CHECKS: Final = 3

_log = logging.getLogger(__name__)


def _nothing(_device: str) -> Mapping[str, Any]:
    return {}


@dataclass(frozen=True, slots=True)
class FleetSide:
    """What the fleet knows: rules, the key that answers are sealed to, and what a device reported last."""

    book: PredictionLogBook
    key: CaptureKeyBook
    facts: Callable[[str], Mapping[str, Any]] = _nothing


class PredictionLogs:
    """Keeps prediction logs. Thread-safe; calls block."""

    def __init__(
        self,
        db: Database,
        clock: Clock,
        fleet: FleetSide,
        blobs: BlobStore,
        access: AccessService,
        pack_after: timedelta,
    ) -> None:
        """Wire the parts. pack_after: how long parts wait for a file at most."""
        self._db = db
        self._clock = clock
        self._book, self._key, self._facts = fleet.book, fleet.key, fleet.facts
        self._blobs = blobs
        self._access = access
        self._pack_after = pack_after
        self._again_at: dict[str, datetime] = {}

    # ---- rules

    def set(self, model: str, by: str, *, ratio: float, inputs: bool, keep_days: int) -> tuple[PredictionLogView, bool]:
        """Keep this from now on; return it and whether the model had no log before. Raises NoParquetError, BadPredictionLogError."""
        parquet.require()
        if inputs and self._key.key() is None:
            raise BadPredictionLogError(
                "inputs are kept sealed to the tenant's key only, and there is none",
                next_step="create one: `edgectl capture-key create --out capture.key`, or keep no inputs",
            )
        with self._db.session():
            is_new = self._book.rule(model, lock=True) is None
            self._book.set(model, by, ratio=ratio, inputs=inputs, keep_days=keep_days)
        return self.view(model), is_new

    def stop(self, model: str, by: str) -> None:
        """Keep nothing more; what is kept stays for its days. Raises PredictionLogUnknownError."""
        with self._db.session():
            rule = self._rule(model, lock=True)
            self._book.set(model, by, ratio=0.0, inputs=False, keep_days=rule.keep_days)

    def views(self) -> list[PredictionLogView]:
        """Return every model's log, in order of name."""
        with self._db.read() as session:
            totals, sizes = store.totals(session), store.file_bytes(session)
        return [self._view(rule, totals, sizes) for rule in self._book.rules()]

    def stored_bytes(self) -> dict[str, int]:
        """Return the bytes of files and of parts that wait, by model."""
        with self._db.read() as session:
            files, waiting = store.file_bytes(session), store.waiting_bytes(session)
        return {name: files.get(name, 0) + waiting.get(name, 0) for name in files.keys() | waiting.keys()}

    def view(self, model: str) -> PredictionLogView:
        """Return a model's log. Raises PredictionLogUnknownError."""
        rule = self._rule(model)
        with self._db.read() as session:
            return self._view(rule, store.totals(session, model), store.file_bytes(session, model))

    def find(self, model: str) -> PredictionLogView | None:
        """Return a model's log, None when it never had one."""
        return None if self._book.rule(model) is None else self.view(model)

    def _view(self, rule: LogRule, totals: Mapping[str, store.Totals], sizes: Mapping[str, int]) -> PredictionLogView:
        one = totals.get(rule.model, store.Totals())
        return PredictionLogView(
            model=rule.model,
            state="off" if rule.ratio <= 0 else "sampled" if rule.ratio < 1 else "complete",
            ratio=rule.ratio,
            inputs=rule.inputs,
            keep_days=rule.keep_days,
            is_sealed=self._key.key() is not None,
            set_at=rule.set_at,
            set_by=rule.set_by,
            devices=one.devices,
            rows=one.rows,
            lost=one.lost,
            bytes=sizes.get(rule.model, 0),
            waiting=one.waiting,
            newest_at=one.newest_at,
        )

    def _rule(self, model: str, *, lock: bool = False) -> LogRule:
        rule = self._book.rule(model, lock=lock)
        if rule is None:
            raise PredictionLogUnknownError(
                f"the model {model} has no prediction log",
                next_step=f"keep one: `edgectl predictions keep {model}`",
            )
        return rule

    # ---- files

    def files(self, model: str) -> list[PredictionLogFile]:
        """Return a model's files, oldest first. Raises PredictionLogUnknownError."""
        self._rule(model)
        with self._db.read() as session:
            return [_file(row) for row in store.files(session, model)]

    def read_file(self, model: str, sha256: str) -> bytes:
        """Return a file's bytes. Raises PredictionLogUnknownError, BlobStoreError."""
        with self._db.read() as session:
            row = store.file(session, sha256) if sha256.isalnum() else None
            if row is None or row.model != model or not row.is_whole:
                raise PredictionLogUnknownError(
                    f"the prediction log of {model} has no file {sha256[:16]}",
                    next_step=f"list them: `edgectl predictions files {model}`",
                )
        return read_whole(self._blobs, Sha256(sha256), row.bytes, MAX_FILE_BYTES)

    def tick(self, now: datetime) -> None:
        """Pack what has waited long enough, and remove what a crash left of a file. For the engine."""
        with self._db.read() as session:
            waiting, half = store.waiting(session), store.half_files(session, now - HALF_FOR)
        for model, (rows, oldest) in waiting.items():
            is_due = rows >= PACK_ROWS or now - oldest >= self._pack_after
            if is_due and now >= self._again_at.get(model, now):
                try:
                    self.pack(model)
                except Exception:  # noqa: BLE001  # a bug in one model must not stop the others for good
                    self._again_at[model] = now + AGAIN_AFTER
                    _log.exception("parts not packed", extra={"model": model})
        for row in half:
            self.drop_file(row.sha256)

    def pack(self, model: str) -> int:
        """Put a model's waiting parts into a file; return how many. Raises NoParquetError, BlobStoreError."""
        with self._db.read() as session:
            rows = store.unpacked(session, model, PACK_PARTS)
        parts: list[Part] = []
        n = size = 0
        for row in rows:
            assert row.body is not None, "asked for those"
            part = unpack_part(row.body)
            parts.append(part)
            n += len(part.rows) + len(part.erased)
            size += len(part.head) + sum(len(one.body) for one in part.rows)
            if n >= PACK_ROWS or size >= PACK_BYTES:
                break
        if parts:
            self.write_file(model, parts, rows[: len(parts)])
        return len(parts)

    def write_file(self, model: str, parts: Sequence[Part], rows: Sequence[PredictionPart], old: str = "") -> str:
        """Make a file of these parts, have their rows point to it, and return its digest; "" when others changed them meanwhile.

        old: the file that this one replaces: the caller drops it.
        """
        data = parquet.write_parts(parts)
        sha256 = hashlib.sha256(data).hexdigest()
        with self._db.session() as session:
            session.add(
                PredictionFile(
                    sha256=sha256, model=model, rows=sum(len(one.rows) for one in parts), bytes=len(data), parts=len(parts),
                    received_from=min(row.received_at for row in rows), received_to=max(row.received_at for row in rows),
                    made_at=self._clock.now(),
                )
            )  # fmt: skip
        with self._blobs.writer(limit_bytes=MAX_FILE_BYTES) as writer:
            writer.write(data)
            writer.finish(Sha256(sha256))
        is_mine = self._point_to(sha256, parts, rows, old)
        if not is_mine:
            self.drop_file(sha256)
        return sha256 if is_mine else ""

    def _point_to(self, sha256: str, parts: Sequence[Part], rows: Sequence[PredictionPart], old: str) -> bool:
        """Have the rows of parts point to their file; False when they were packed or erased meanwhile."""
        with self._db.session() as session:
            known = [store.part(session, row.model, row.device_id, row.log, row.part, lock=True) for row in rows]
            file = store.file(session, sha256, lock=True)
            for one, row in zip(known, rows, strict=True):
                if file is None or one is None or one.file != old or one.body != row.body:
                    return False
            for one, part in zip(known, parts, strict=True):
                assert one is not None, "checked above"
                one.file, one.body, one.rows = sha256, None, len(part.rows)
            assert file is not None, "checked above"
            file.is_whole = True
            before = store.file(session, old) if old else None
            if before is not None:
                before.is_whole = False
            return True

    def drop_file(self, sha256: str) -> None:
        """Remove a file that no part points to. Its row stays locked until its bytes are gone: no part comes to it meanwhile."""
        with self._db.session() as session:
            row = store.file(session, sha256, lock=True)
            if store.is_in_use(session, sha256):
                return
            self._blobs.remove(Sha256(sha256))
            if row is not None:
                session.delete(row)

    def prune(self, now: datetime) -> int:
        """Let go what is older than its days; return how many files. For the engine."""
        n = 0
        for rule in self._book.rules():
            with self._db.read() as session:
                old = store.expired_files(session, rule.model, now - timedelta(days=rule.keep_days))
            for row in old:
                with self._db.session() as session:
                    file = store.file(session, row.sha256, lock=True)
                    if file is None or not file.is_whole:  # another server lets it go
                        continue
                    store.let_go(session, row.sha256)
                    self._access.record("server", "expire_prediction_log", f"{rule.model}/{row.sha256}", 200, "")
                self.drop_file(row.sha256)
                n += 1
        return n

    # ---- checking

    def verify(self, model: str, device: str = "") -> PredictionLogVerification:
        """Read a model's log again, of one device or of all, and say whether it is whole. Raises PredictionLogUnknownError."""
        self._rule(model)
        with self._db.read() as session:
            devices = [device] if device else sorted(store.devices(session, model))
        contents = _Contents(self._blobs)
        logs = [log for one in devices for log in self._check(model, one, contents)]
        known = {ERASED, SAMPLED, EXPIRED}
        return PredictionLogVerification(
            model=model,
            is_whole=all(not one.problems for one in logs),
            checked_at=self._clock.now(),
            rows=sum(one.rows for one in logs),
            erased=sum(m.n for one in logs for m in one.missing if m.reason == ERASED),
            lost=sum(m.n for one in logs for m in one.missing if m.reason not in known),
            logs=logs,
        )

    def _check(self, model: str, device: str, contents: "_Contents") -> list[CheckedPredictionLog]:
        logs: list[CheckedPredictionLog] = []
        places: list[tuple[str, int, str]] = []
        for _ in range(CHECKS):
            with self._db.read() as session:
                rows = store.parts(session, model, device)
            before, places = places, [(row.log, row.part, row.file) for row in rows]
            if logs and places == before:
                break
            logs = self._check_parts(model, device, rows, contents)
            if not any(one.problems for one in logs):
                break  # else files may have been replaced or let go meanwhile
        return logs

    def _check_parts(
        self, model: str, device: str, rows: Sequence[PredictionPart], contents: "_Contents"
    ) -> list[CheckedPredictionLog]:
        by_log: dict[str, list[HeldPart]] = {}
        for row in rows:
            by_log.setdefault(row.log, []).append(contents.held(row))
        facts = self._facts(device)
        return [check_log(device, log, parts, said_of(facts, model, log)) for log, parts in by_log.items()]


def said_of(facts: Mapping[str, Any], model: str, log: str) -> SaidHead | None:
    """Return what a device's facts (any JSON value) say of a log."""
    said = facts.get("prediction_log")
    found = said.get(model) if isinstance(said, Mapping) else None
    if not isinstance(found, Sequence) or len(found) != 3 or found[0] != log:
        return None
    return SaidHead(found[1], found[2]) if isinstance(found[1], int) and isinstance(found[2], str) else None


class _Contents:
    """What the parts of a log hold, from files and from what waits. Remembers which numbers the files have, not their rows."""

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs
        self._files: dict[str, dict[parquet.PartKey, HeldPart] | str] = {}

    def held(self, row: PredictionPart) -> HeldPart:
        """Return a part with what can be read of it."""
        if row.body is not None:
            part = unpack_part(row.body)
            return _held(row.part, row.hash, part, "")
        if not row.file:
            return HeldPart(row.part, row.head, row.hash)
        if row.file not in self._files:
            self._files[row.file] = self._read(row.file)
        found = self._files[row.file]
        if isinstance(found, str):
            return HeldPart(row.part, row.head, row.hash, problem=found)
        one = found.get(parquet.PartKey(row.device_id, row.log, row.part))
        if one is None:
            return HeldPart(row.part, row.head, row.hash, problem=f"it is not in the file {row.file[:16]}")
        return replace(one, hash=row.hash)

    def _read(self, sha256: str) -> dict[parquet.PartKey, HeldPart] | str:
        try:
            length = self._blobs.size(Sha256(sha256))
            if length is None:
                return f"its file {sha256[:16]} is missing"
            data = read_whole(self._blobs, Sha256(sha256), length, MAX_FILE_BYTES)
            return {key: _held(key.part, "", part, wrong) for key, (part, wrong) in parquet.read_parts(data).items()}
        except EdgefleetError as error:
            return f"its file {sha256[:16]} cannot be read: {error.message}"
        except ValueError as error:
            return f"its file {sha256[:16]} cannot be read: {error}"


def _held(number: int, digest: str, part: Part, problem: str) -> HeldPart:
    erased = [one.seq for one in part.erased]
    seqs = array("q", sorted([row.seq for row in part.rows] + erased))
    return HeldPart(number, part.head, digest, hash_of(part).hex(), seqs, frozenset(erased), problem)


def _file(row: PredictionFile) -> PredictionLogFile:
    return PredictionLogFile(row.sha256, row.model, row.rows, row.bytes, row.parts, row.received_from, row.received_to)
