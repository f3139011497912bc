"""What must reach the server and has not yet been confirmed by it: memory first, then one SQLite file bounded in bytes.

1. A row leaves only on the server's application acknowledgement (`Ack`): PUBACK proves nothing, and no broker state survives.
2. Class 0 events go to the disk at once with synchronous=FULL. Class 1 telemetry waits in memory and is written only when it is
   not confirmed within SPILL_S, or when the agent ends: a connected device writes nothing (docs/operate/bandwidth.md). Class 2
   samples are never written here: they lie in the capture store until they are confirmed.
3. Over the cap, telemetry that was never sent is added up: what began in the same hour, then in the same day (UTC), oldest
   first. Only then something is dropped, telemetry before events, oldest first, and counted by class. What was sent once is
   never added to anything: the server may have counted it.
4. (boot_id, kind, seq) is unique, so that sending twice counts once.
5. A disk that takes nothing stops nothing: messages wait in memory, within MEMORY_BYTES, and are written when it does.
"""

import logging
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

RESEND_AFTER_S = 20.0
RESEND_MAX_S = 3_600.0
"""A message that is not confirmed goes again after 20 s, then after twice as long each time; a new connection begins again."""
SPILL_S = 1_800.0
MEMORY_BYTES = 256 * 1024
WAL_BYTES = 1 << 20
"""Room on the disk that is kept for the write-ahead log."""
FULL_TRIES = 64
SPANS_S = (3_600, 86_400)
log = logging.getLogger(__name__)
_OVERHEAD_BYTES = 96
_PAGE_BYTES = 1_024
"""Small: a transaction writes whole pages, and most of ours change a few hundred bytes."""
_SCHEMA = """
CREATE TABLE IF NOT EXISTS message (
  id INTEGER PRIMARY KEY, kind INTEGER NOT NULL, boot_id TEXT NOT NULL, seq INTEGER NOT NULL, payload BLOB NOT NULL,
  t0 INTEGER NOT NULL DEFAULT 0, sent INTEGER NOT NULL DEFAULT 0, UNIQUE (boot_id, kind, seq));
CREATE TABLE IF NOT EXISTS count (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
"""


class Kind(IntEnum):
    """Class of a message; lower goes out first and is dropped last."""

    EVENT = 0
    TELEMETRY = 1
    SAMPLE = 2


@dataclass(frozen=True, slots=True)
class Waiting:
    """One message to send. id: negative while it is in memory only."""

    id: int
    kind: Kind
    boot_id: str
    seq: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class Joins:
    """What the outbox knows about telemetry. merge: sums of both, pack: both as they are; each (older, newer) → one payload with
    the newer one's name, or None when they cannot be joined. begins_s: unix seconds of a payload's first window.
    """

    merge: Callable[[bytes, bytes], bytes | None]
    pack: Callable[[bytes, bytes], bytes | None]
    begins_s: Callable[[bytes], int]


@dataclass(slots=True)
class _Fresh:
    """A message in memory."""

    waiting: Waiting
    since_s: float
    sent: bool = False


Key = tuple[int, str, int]


class Outbox:
    """The queue. Not thread-safe: agentd's main loop is its only user. cap_bytes: of the file with its log."""

    def __init__(self, path: Path, cap_bytes: int, joins: Joins) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._joins = joins
        pages = max(16, (cap_bytes - min(WAL_BYTES, cap_bytes // 2)) // _PAGE_BYTES)
        # rows leave gaps in their pages, so their bytes may fill three quarters of the file; the page count is the hard end
        self._room = min(cap_bytes, pages * _PAGE_BYTES) * 3 // 4
        self._fresh: dict[Key, _Fresh] = {}
        self._fresh_bytes = 0
        self._next_id = -1
        self._sent: dict[int, tuple[float, int, float, Kind]] = {}
        self._merged_to = [0] * len(SPANS_S)
        self._db = self._open(path, pages)
        rows = self._db.execute("SELECT kind, COUNT(*), SUM(LENGTH(payload)) FROM message GROUP BY kind").fetchall()
        self._rows = {int(kind): int(n) for kind, n, _ in rows}
        self._disk_bytes = sum(int(size) + int(n) * _OVERHEAD_BYTES for _, n, size in rows)

    def _open(self, path: Path, pages: int) -> sqlite3.Connection:
        try:
            return _connect(path, pages)
        except sqlite3.OperationalError as error:
            # no room, or no access, at the moment: what is queued stays where it is for the next start, and the device works
            log.warning("queue not usable, kept in memory for now", extra={"reason": str(error)})
            self._room = MEMORY_BYTES
            return _connect(":memory:", 2 * MEMORY_BYTES // _PAGE_BYTES)
        except sqlite3.DatabaseError:
            # a damaged queue must not keep the device from working: it is set aside, its content is lost and that is counted
            path.replace(path.with_suffix(".damaged"))
            for suffix in ("-wal", "-shm"):
                path.with_name(path.name + suffix).unlink(missing_ok=True)
            db = _connect(path, pages)
            _count(db, "dropped")
            return db

    def close(self) -> None:
        """Write what is in memory and close the file."""
        self._write(list(self._fresh.values()))
        self._db.close()

    def is_live(self) -> bool:
        """Whether the file answers."""
        return self._db.execute("SELECT 1").fetchone() is not None

    # ---- figures

    def __len__(self) -> int:
        return sum(self._rows.values()) + len(self._fresh)

    @property
    def size_bytes(self) -> int:
        """Return the bytes of all messages, on disk and in memory."""
        return self._disk_bytes + self._fresh_bytes

    @property
    def dropped(self) -> int:
        """How many messages were ever given up."""
        return sum(value for name, value in self._counts().items() if name.startswith("dropped"))

    @property
    def dropped_by(self) -> list[int]:
        """How many events, telemetry messages and samples were ever given up."""
        counts = self._counts()
        return [counts.get(f"dropped.{kind.value}", 0) for kind in Kind]

    @property
    def merged(self) -> int:
        """How many messages were ever added into another one to save room."""
        return self._counts().get("merged", 0)

    def unreported_losses(self) -> dict[str, int]:
        """Return what was given up, by class, and `merged`, since `losses_reported`; empty when nothing was.

        `queue`: a damaged file set aside.
        """
        counts = self._counts()
        names = {f"dropped.{kind.value}": kind.name.lower() for kind in Kind} | {"dropped": "queue", "merged": "merged"}
        lost = {word: counts.get(name, 0) - counts.get(f"told.{name}", 0) for name, word in names.items()}
        return {word: n for word, n in lost.items() if n > 0}

    def losses_reported(self) -> None:
        """Note that the server knows of everything lost so far."""
        for name, value in self._counts().items():
            if not name.startswith("told."):
                self._try_count(f"told.{name}", value - self._counts().get(f"told.{name}", 0))

    def awaits_since_s(self, now_s: float) -> float:
        """Return since when something that was sent on this connection waits to be confirmed; `now_s` when nothing does."""
        return min((first_s for _, _, first_s, _ in self._sent.values()), default=now_s)

    def waiting(self, kind: Kind) -> int:
        """Return how many messages of a class wait."""
        return self._rows.get(kind, 0) + sum(key[0] == kind for key in self._fresh)

    def _counts(self) -> dict[str, int]:
        return {str(name): int(value) for name, value in self._db.execute("SELECT name, value FROM count")}

    # ---- in

    def add(self, kind: Kind, boot_id: str, seq: int, payload: bytes, now_s: float = 0.0) -> bool:
        """Put one message in; False when it was given up at once: samples are, as long as others fill the memory.

        now_s: monotonic seconds. Never raises: a disk that does not take it is logged, and the message waits in memory.
        """
        key = (int(kind), boot_id, seq)
        if key in self._fresh:
            return True
        if kind is Kind.SAMPLE and self._fresh_bytes + len(payload) > MEMORY_BYTES:
            return False
        fresh = _Fresh(Waiting(self._next_id, kind, boot_id, seq, payload), now_s)
        self._next_id -= 1
        self._fresh[key] = fresh
        self._fresh_bytes += len(payload) + _OVERHEAD_BYTES
        if kind is Kind.EVENT:
            self._write([fresh])
        if self._fresh_bytes > MEMORY_BYTES:
            self._write(list(self._fresh.values()))
            self._shrink_memory()
        return True

    def spill(self, now_s: float) -> None:
        """Write everything as soon as one message has waited in memory for SPILL_S, or an event that the disk did not take before.

        All at once: a transaction costs flash by the page, whether it holds one message or three (`./dev bench agent-flash`).
        """
        waiting = list(self._fresh.values())
        if any(f.waiting.kind is Kind.EVENT or now_s - f.since_s >= SPILL_S for f in waiting):
            self._write(waiting)

    def _write(self, entries: Sequence[_Fresh]) -> None:
        rows = [entry for entry in entries if entry.waiting.kind is not Kind.SAMPLE]
        if not rows:
            return
        try:
            self._insert_or_make_room(rows)
            while self._disk_bytes > self._room and self._make_room():
                pass
        except sqlite3.Error as error:
            log.warning("outbox does not take messages", extra={"n": len(rows), "reason": str(error)})

    def _insert_or_make_room(self, rows: Sequence[_Fresh]) -> None:
        """Insert rows. A file that is full by its own page count, because of gaps, makes room as if over the cap. Raises Error."""
        for _ in range(FULL_TRIES):
            try:
                self._insert(rows)
                return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_FULL or not self._make_room():
                    raise
        self._insert(rows)

    def _insert(self, rows: Sequence[_Fresh]) -> None:
        has_event = any(row.waiting.kind is Kind.EVENT for row in rows)
        self._db.execute(f"PRAGMA synchronous = {'FULL' if has_event else 'NORMAL'}")
        values = [
            (int(w.kind), w.boot_id, w.seq, w.payload, self._t0(w), int(row.sent))
            for row in rows
            for w in (row.waiting,)
        ]
        with _transaction(self._db):
            before = self._db.total_changes
            new = []
            for value in values:
                self._db.execute(
                    "INSERT OR IGNORE INTO message (kind, boot_id, seq, payload, t0, sent) VALUES (?, ?, ?, ?, ?, ?)",
                    value,
                )
                new.append(self._db.total_changes - before)
                before = self._db.total_changes
        for row, is_new in zip(rows, new, strict=True):
            self._forget_fresh(row.waiting)
            if is_new:
                kind = int(row.waiting.kind)
                self._rows[kind] = self._rows.get(kind, 0) + 1
                self._disk_bytes += len(row.waiting.payload) + _OVERHEAD_BYTES

    def _t0(self, waiting: Waiting) -> int:
        return self._joins.begins_s(waiting.payload) if waiting.kind is Kind.TELEMETRY else 0

    def _forget_fresh(self, waiting: Waiting) -> None:
        if self._fresh.pop((int(waiting.kind), waiting.boot_id, waiting.seq), None) is not None:
            self._fresh_bytes -= len(waiting.payload) + _OVERHEAD_BYTES
            self._sent.pop(waiting.id, None)

    def _shrink_memory(self) -> None:
        """Give up what neither disk nor memory has room for: samples, then telemetry, then events, oldest first."""
        for fresh in sorted(self._fresh.values(), key=lambda f: (-f.waiting.kind, -f.waiting.id)):
            if self._fresh_bytes <= MEMORY_BYTES:
                return
            self._forget_fresh(fresh.waiting)
            self._try_count(f"dropped.{int(fresh.waiting.kind)}")

    def _try_count(self, name: str, by: int = 1) -> None:
        try:
            _count(self._db, name, by)
        except sqlite3.Error:
            log.warning("dropped and not counted on disk", extra={"what": name})

    # ---- out

    def due(self, now_s: float, limit: int, kinds: Sequence[Kind] = tuple(Kind)) -> list[Waiting]:
        """Return up to `limit` messages to send now: events first, oldest first, none sent a moment ago."""
        found: list[Waiting] = []
        for kind in kinds:
            if limit <= len(found):
                break
            found += self._due_of(kind, now_s, limit - len(found))
        return found

    def _due_of(self, kind: Kind, now_s: float, limit: int) -> list[Waiting]:
        ready: list[Waiting] = []
        if self._rows.get(kind, 0):
            rows = self._db.execute(
                "SELECT id, kind, boot_id, seq, payload FROM message WHERE kind = ? ORDER BY id LIMIT ?",
                (int(kind), limit + len(self._sent)),
            ).fetchall()
            ready = [
                Waiting(row[0], Kind(row[1]), row[2], row[3], row[4]) for row in rows if self._may_send(row[0], now_s)
            ]
        if len(ready) < limit:
            fresh = [f.waiting for f in self._fresh.values() if f.waiting.kind is kind]
            ready += [w for w in fresh if self._may_send(w.id, now_s)]
        return ready[:limit]

    def _may_send(self, message_id: int, now_s: float) -> bool:
        sent = self._sent.get(message_id)
        return sent is None or now_s - sent[0] >= min(RESEND_MAX_S, RESEND_AFTER_S * 2.0 ** min(sent[1] - 1, 16))

    def sent(self, waiting: Waiting, now_s: float) -> None:
        """Note that a message is handed to the link; telemetry on the disk is marked there *before* it goes (rule 3)."""
        _, times, first_s, kind = self._sent.get(waiting.id, (now_s, 0, now_s, waiting.kind))
        self._sent[waiting.id] = (now_s, times + 1, first_s, kind)
        fresh = self._fresh.get((int(waiting.kind), waiting.boot_id, waiting.seq))
        if fresh is not None:
            fresh.sent = True
        elif waiting.kind is Kind.TELEMETRY:
            try:
                self._db.execute("PRAGMA synchronous = NORMAL")
                self._db.execute("UPDATE message SET sent = 1 WHERE id = ? AND sent = 0", (waiting.id,))
            except sqlite3.Error as error:
                log.warning("not marked as sent", extra={"reason": str(error)})

    def on_the_way(self, now_s: float) -> int:
        """Return how many messages other than events were sent a moment ago and are not confirmed."""
        return sum(now_s - at_s < RESEND_AFTER_S and kind is not Kind.EVENT for at_s, _, _, kind in self._sent.values())

    def was_sent(self, waiting: Waiting) -> bool:
        """Whether a message went out on this connection before."""
        return waiting.id in self._sent

    def unsent(self, waiting: Waiting) -> None:
        """Note that the link did not take a message after all."""
        self._sent.pop(waiting.id, None)

    def resend_all(self) -> None:
        """Forget what was sent: the connection it was sent on is gone."""
        self._sent.clear()

    def ack(self, kind: Kind, boot_id: str, seqs: Iterable[int]) -> int:
        """Remove what the server has stored; return how many that were."""
        removed = 0
        for seq in seqs:
            fresh = self._fresh.get((int(kind), boot_id, seq))
            if fresh is not None:
                self._forget_fresh(fresh.waiting)
                removed += 1
            elif self._rows.get(kind, 0):
                removed += self._ack_on_disk(kind, boot_id, seq)
        return removed

    def _ack_on_disk(self, kind: Kind, boot_id: str, seq: int) -> int:
        try:
            row = self._db.execute(
                "SELECT id, LENGTH(payload) FROM message WHERE boot_id = ? AND kind = ? AND seq = ?",
                (boot_id, int(kind), seq),
            ).fetchone()
            if row is None:
                return 0
            self._remove(int(row[0]), int(kind), int(row[1]))
        except sqlite3.Error as error:
            log.warning("acknowledged and not removed", extra={"reason": str(error)})
            return 0
        return 1

    # ---- joining

    def pack(self) -> bool:
        """Join the oldest unsent telemetry on the disk into one message, windows as they are; False when there is nothing to join."""
        try:
            rows = self._db.execute(
                "SELECT id, payload FROM message WHERE kind = 1 AND sent = 0 ORDER BY id LIMIT 64"
            ).fetchall()
            return self._join(rows, self._joins.pack) > 0
        except sqlite3.Error as error:
            log.warning("backlog not packed", extra={"reason": str(error)})
            return False

    def _make_room(self) -> bool:
        for _ in range(2):
            for level, span_s in enumerate(SPANS_S):
                while (rows := self._same_span(level, span_s)) is not None:
                    merged = self._join(rows, self._joins.merge)
                    if merged:
                        _count(self._db, "merged", merged)
                        return True
            self._merged_to = [0] * len(SPANS_S)  # once more from the start: rows of a span may have come in two parts
        return self._drop_oldest()

    def _same_span(self, level: int, span_s: int) -> list[tuple[int, bytes]] | None:
        """Return the next rows of one span behind the mark of its level, and move the mark; None when there are none."""
        first = self._db.execute(
            "SELECT id, t0 / ? FROM message WHERE kind = 1 AND sent = 0 AND id > ? ORDER BY id LIMIT 1",
            (span_s, self._merged_to[level]),
        ).fetchone()
        if first is None:
            return None
        rows: list[tuple[int, bytes]] = []
        cursor = self._db.execute(
            "SELECT id, t0 / ?, payload FROM message WHERE kind = 1 AND sent = 0 AND id >= ? ORDER BY id LIMIT 64",
            (span_s, first[0]),
        )
        for row_id, span, payload in cursor:
            if span != first[1]:
                break
            rows.append((row_id, payload))
        cursor.close()
        self._merged_to[level] = rows[-1][0]
        return rows

    def _join(self, rows: Sequence[tuple[int, bytes]], join: Callable[[bytes, bytes], bytes | None]) -> int:
        """Replace neighbours by what `join` makes of them, under the newest one's id; return how many rows that saved."""
        saved, freed, start = 0, 0, 0
        with _transaction(self._db):
            while start < len(rows):
                end, payload = start, rows[start][1]
                while end + 1 < len(rows) and (joined := join(payload, rows[end + 1][1])) is not None:
                    end, payload = end + 1, joined
                if end > start:
                    old = rows[start:end]
                    self._db.executemany("DELETE FROM message WHERE id = ?", [(row_id,) for row_id, _ in old])
                    self._db.execute("UPDATE message SET payload = ? WHERE id = ?", (payload, rows[end][0]))
                    saved += len(old)
                    freed += sum(len(data) for _, data in rows[start : end + 1]) - len(payload)
                start = end + 1
        self._disk_bytes -= freed + saved * _OVERHEAD_BYTES
        self._rows[int(Kind.TELEMETRY)] = self._rows.get(int(Kind.TELEMETRY), 0) - saved
        return saved

    def _drop_oldest(self) -> bool:
        oldest = self._db.execute(
            "SELECT id, kind, LENGTH(payload) FROM message ORDER BY kind DESC, id LIMIT 1"
        ).fetchone()
        if oldest is None:
            return False
        self._remove(int(oldest[0]), int(oldest[1]), int(oldest[2]))
        _count(self._db, f"dropped.{oldest[1]}")
        return True

    def _remove(self, message_id: int, kind: int, length: int) -> None:
        self._db.execute("PRAGMA synchronous = NORMAL")  # an acknowledged message that comes again counts once
        self._db.execute("DELETE FROM message WHERE id = ?", (message_id,))
        self._sent.pop(message_id, None)
        self._rows[kind] -= 1
        self._disk_bytes -= length + _OVERHEAD_BYTES


class _transaction:  # noqa: N801 - reads as what it is
    """Commit at the end, roll back on an error. The connection is in autocommit mode."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def __enter__(self) -> None:
        self._db.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: object, *_: object) -> None:
        if not self._db.in_transaction:
            return  # SQLite has rolled back by itself, as it does when the disk is full
        if kind is not None:
            self._db.execute("ROLLBACK")
            return
        try:
            self._db.execute("COMMIT")
        except sqlite3.Error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise


def _count(db: sqlite3.Connection, name: str, by: int = 1) -> None:
    db.execute(
        "INSERT INTO count VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = value + excluded.value", (name, by)
    )


def _connect(path: Path | str, pages: int) -> sqlite3.Connection:
    db = sqlite3.connect(path, isolation_level=None)
    db.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA cache_size = -256")
    # a small file has a small log too: with the pages of one transaction more it stays within what the cap leaves for it
    db.execute(f"PRAGMA wal_autocheckpoint = {min(800, pages * 3 // 4)}")
    db.execute(f"PRAGMA journal_size_limit = {WAL_BYTES // 2}")
    page_bytes = int(db.execute("PRAGMA page_size").fetchone()[0])  # a file that an earlier version made keeps its own
    db.execute(f"PRAGMA max_page_count = {pages * _PAGE_BYTES // page_bytes}")
    db.executescript(_SCHEMA)
    columns = {row[1] for row in db.execute("PRAGMA table_info(message)")}
    for name in ("t0", "sent"):  # of a file that an earlier version made
        if name not in columns:
            db.execute(f"ALTER TABLE message ADD COLUMN {name} INTEGER NOT NULL DEFAULT 0")
    return db
