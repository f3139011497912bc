"""What must reach the server and has not yet been confirmed by it: one SQLite file, bounded in bytes.

1. A row leaves only on the server's application acknowledgement (`Ack`): PUBACK proves nothing, and no broker state survives.
2. Class 0 events are written with synchronous=FULL; class 1 telemetry with NORMAL (13 µs against 3.5 ms, `agent.md` §4.3).
3. Over the cap the oldest telemetry goes first: two neighbours are merged into one row where that saves bytes, else dropped and
   counted. Events go only when nothing else is left.
4. (boot_id, kind, seq) is unique, so that sending twice counts once.
5. A file that cannot be opened now stays for the next start, and messages wait in memory; a damaged one is set aside.
"""

import logging
import sqlite3
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

RESEND_AFTER_S = 20.0
log = logging.getLogger(__name__)
_OVERHEAD_BYTES = 64
_SCHEMA = """
CREATE TABLE IF NOT EXISTS message (
  id INTEGER PRIMARY KEY, kind INTEGER NOT NULL, boot_id TEXT NOT NULL, seq INTEGER NOT NULL, payload BLOB NOT NULL,
  UNIQUE (boot_id, kind, seq));
CREATE TABLE IF NOT EXISTS count (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
"""


class Kind(IntEnum):
    """Class of a message; lower goes out first and is dropped last."""

    EVENT = 0
    TELEMETRY = 1


@dataclass(frozen=True, slots=True)
class Waiting:
    """One message to send."""

    id: int
    kind: Kind
    boot_id: str
    seq: int
    payload: bytes


Merge = Callable[[bytes, bytes], bytes | None]
"""(older, newer) → one payload with the newer one's identity that stands for both, or None when they cannot be joined."""


class Outbox:
    """The queue. Not thread-safe: agentd's main loop is its only user."""

    def __init__(self, path: Path, cap_bytes: int, merge: Merge) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._cap = cap_bytes
        self._merge = merge
        self._sent: dict[int, float] = {}
        self._db = self._open(path)
        row = self._db.execute("SELECT COUNT(*), COALESCE(SUM(LENGTH(payload)), 0) FROM message").fetchone()
        self.bytes = int(row[1]) + int(row[0]) * _OVERHEAD_BYTES

    @staticmethod
    def _open(path: Path) -> sqlite3.Connection:
        try:
            return _connect(path)
        except sqlite3.OperationalError as error:
            # no room, or no access, at the moment: what is queued stays where it is for the next start, and the device works
            log.warning("queue not usable, kept in memory for now", extra={"reason": str(error)})
            return _connect(":memory:")
        except sqlite3.DatabaseError:
            # a damaged queue must not keep the device from working: it is set aside, its content is lost and that is counted
            path.replace(path.with_suffix(".damaged"))
            for suffix in ("-wal", "-shm"):
                path.with_name(path.name + suffix).unlink(missing_ok=True)
            db = _connect(path)
            db.execute("INSERT INTO count VALUES ('dropped', 1) ON CONFLICT (name) DO UPDATE SET value = value + 1")
            return db

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def is_live(self) -> bool:
        """Whether the file answers."""
        return self._db.execute("SELECT 1").fetchone() is not None

    @property
    def dropped(self) -> int:
        """How many messages were ever given up."""
        row = self._db.execute("SELECT value FROM count WHERE name = 'dropped'").fetchone()
        return int(row[0]) if row else 0

    def __len__(self) -> int:
        return int(self._db.execute("SELECT COUNT(*) FROM message").fetchone()[0])

    def add(self, kind: Kind, boot_id: str, seq: int, payload: bytes) -> None:
        """Put one message in, then make room if that is over the cap. A disk that does not take it is logged: work goes on."""
        try:
            self._insert(kind, boot_id, seq, payload)
        except sqlite3.Error as error:
            log.warning("outbox does not take a message", extra={"kind": kind.name, "reason": str(error)})

    def _insert(self, kind: Kind, boot_id: str, seq: int, payload: bytes) -> None:
        self._db.execute(f"PRAGMA synchronous = {'FULL' if kind is Kind.EVENT else 'NORMAL'}")
        cursor = self._db.execute(
            "INSERT OR IGNORE INTO message (kind, boot_id, seq, payload) VALUES (?, ?, ?, ?)",
            (int(kind), boot_id, seq, payload),
        )
        if cursor.rowcount:
            self.bytes += len(payload) + _OVERHEAD_BYTES
        while self.bytes > self._cap and self._make_room():
            pass

    def due(self, now_s: float, limit: int) -> list[Waiting]:
        """Return up to `limit` messages to send now: events first, oldest first, none sent less than 20 s ago."""
        if limit <= 0:
            return []
        rows = self._db.execute(
            "SELECT id, kind, boot_id, seq, payload FROM message ORDER BY kind, id LIMIT ?", (limit + len(self._sent),)
        ).fetchall()
        ready = [row for row in rows if now_s - self._sent.get(row[0], -RESEND_AFTER_S) >= RESEND_AFTER_S]
        return [Waiting(row[0], Kind(row[1]), row[2], row[3], row[4]) for row in ready[:limit]]

    def sent(self, message_id: int, now_s: float) -> None:
        """Note that a message was handed to the link."""
        self._sent[message_id] = now_s

    def resend_all(self) -> None:
        """Forget what was sent: the connection it was sent on is gone."""
        self._sent.clear()

    def ack(self, kind: Kind, boot_id: str, seqs: Iterable[int]) -> int:
        """Remove what the server has stored; return how many that were."""
        removed = 0
        for seq in seqs:
            row = self._db.execute(
                "SELECT id, LENGTH(payload) FROM message WHERE boot_id = ? AND kind = ? AND seq = ?",
                (boot_id, int(kind), seq),
            ).fetchone()
            if row is not None:
                self._remove(int(row[0]), int(row[1]))
                removed += 1
        return removed

    def _make_room(self) -> bool:
        oldest = (
            self._db.execute("SELECT id, payload FROM message WHERE kind = 1 ORDER BY id LIMIT 2").fetchall()
            or self._db.execute("SELECT id, payload FROM message ORDER BY kind DESC, id LIMIT 1").fetchall()
        )
        if not oldest:
            return False
        (first_id, first), rest = oldest[0], oldest[1:]
        if rest:
            second_id, second = rest[0]
            joined = self._merge(first, second)
            if joined is not None and len(joined) < len(first) + len(second):
                self._db.execute("UPDATE message SET payload = ? WHERE id = ?", (joined, second_id))
                self.bytes += len(joined) - len(second)
                self._sent.pop(second_id, None)
                self._remove(first_id, len(first))
                return True
        self._remove(first_id, len(first))
        self._db.execute("INSERT INTO count VALUES ('dropped', 1) ON CONFLICT (name) DO UPDATE SET value = value + 1")
        return True

    def _remove(self, message_id: int, length: int) -> None:
        self._db.execute("DELETE FROM message WHERE id = ?", (message_id,))
        self._sent.pop(message_id, None)
        self.bytes -= length + _OVERHEAD_BYTES


def _connect(path: Path | str) -> sqlite3.Connection:
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA cache_size = -256")
    db.execute("PRAGMA wal_autocheckpoint = 128")
    db.executescript(_SCHEMA)
    return db
