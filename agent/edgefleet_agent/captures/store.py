"""Captured records on the device: sealed files that the device itself cannot read, bounded in bytes, days and bytes a day.

1. A file is `<taken_ms>.<record>.<reason>.<label>.<model>.cap`; what is in its name is all that is needed to choose.
2. Over `cap_bytes` the oldest record of the fullest stratum (model, reason, class) goes first, so that a common case never
   crowds out a rare one. After `days` a record goes, fetched or not.
3. A token bucket of `daily_bytes` says what may be written a day. What is not kept for want of room is counted.
4. agentd handles ciphertext only: no key and no plain input ever comes here.
"""

import logging
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import msgspec

from edgefleet_agent.connection.budget import Bucket, daily
from edgefleet_agent.core.durable import decode_record, encode_record, write_file
from edgefleet_agent.errors import StateFileError

SUFFIX = ".cap"
DAY_MS = 86_400_000

log = logging.getLogger(__name__)


class CaptureRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One file. The fields other than `sealed` are what the server and the operator may see of it."""

    v: int = 1
    record: str
    model: str
    version: str
    sha256: str
    reason: str
    label: int
    trace_id: str
    taken_ms: int
    seen: int
    key: str
    sealed: bytes


@dataclass(frozen=True, slots=True)
class Entry:
    """One record as its name tells it."""

    name: str
    taken_ms: int
    reason: str
    label: int
    model: str
    size_bytes: int

    @property
    def stratum(self) -> tuple[str, str, int]:
        """What it competes with for room."""
        return self.model, self.reason, self.label


class CaptureStore:
    """All records. Not thread-safe."""

    def __init__(self, folder: Path, cap_bytes: int, days: int, daily_bytes: int, now_s: float) -> None:
        self._folder = folder
        self._cap_bytes = cap_bytes
        self._days = days
        self._budget: Bucket | None = daily(daily_bytes, now_s)
        self._entries: dict[str, Entry] = {}
        try:
            self._read_names()
        except OSError as error:  # a disk that cannot be read must not keep the agent from serving
            log.warning("captures not readable", extra={"reason": str(error)})
        self.size_bytes = sum(entry.size_bytes for entry in self._entries.values())
        self.refused = 0
        self.evicted = 0

    def _read_names(self) -> None:
        for path in self._folder.glob(f"*{SUFFIX}"):
            entry = parse_name(path.name, path.stat().st_size)
            if entry is not None:
                self._entries[entry.name] = entry
            elif path.is_file():
                path.unlink()

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, record: CaptureRecord, now_s: float) -> bool:
        """Keep a record; False when the day's bytes are used up or the disk takes nothing. Never raises."""
        data = encode_record(record)
        if self._budget is not None:
            self._budget = self._budget.now(now_s)
        if len(data) > self._cap_bytes or (self._budget is not None and self._budget.level < len(data)):
            self.refused += 1
            return False
        name = f"{record.taken_ms:013d}.{record.record}.{record.reason}.{record.label}.{record.model}{SUFFIX}"
        entry = parse_name(name, len(data))
        if entry is None:
            self.refused += 1
            return False
        try:
            self._write(name, data)
        except OSError as error:
            log.warning("record not kept", extra={"reason": str(error)})
            self.refused += 1
            return False
        if self._budget is not None:
            self._budget = self._budget.less(len(data))
        self._entries[name] = entry
        self.size_bytes += entry.size_bytes
        while self.size_bytes > self._cap_bytes:
            self.remove(self._least_wanted().name)
            self.evicted += 1
        return True

    def _write(self, name: str, data: bytes) -> None:
        """Write whole or not at all; not fsynced, a sample is no truth that a power cut may not take."""
        self._folder.mkdir(mode=0o700, exist_ok=True)
        write_file(self._folder / name, data, durable=False)

    def _least_wanted(self) -> Entry:
        sizes: Counter[tuple[str, str, int]] = Counter()
        for entry in self._entries.values():
            sizes[entry.stratum] += entry.size_bytes
        fullest = max(sizes, key=lambda stratum: (sizes[stratum], stratum))
        return min((e for e in self._entries.values() if e.stratum == fullest), key=lambda e: (e.taken_ms, e.name))

    def remove(self, name: str) -> None:
        """Remove a record; again: nothing happens."""
        entry = self._entries.pop(name, None)
        if entry is not None:
            self.size_bytes -= entry.size_bytes
            try:
                (self._folder / name).unlink(missing_ok=True)
            except OSError as error:  # it is reported to nobody any more; the next start finds it again
                log.warning("record not removed", extra={"reason": str(error)})

    def expire(self, now_ms: int) -> None:
        """Remove what is older than the retention."""
        for entry in [e for e in self._entries.values() if e.taken_ms < now_ms - self._days * DAY_MS]:
            self.remove(entry.name)

    def clear(self) -> None:
        """Remove everything: consent was withdrawn."""
        for name in list(self._entries):
            self.remove(name)

    def forget(self, traces: Collection[str]) -> None:
        """Remove the records of these traces."""
        for name in list(self._entries) if traces else ():
            record = self.read(name)
            if record is not None and record.trace_id in traces:
                self.remove(name)

    def select(self, model: str = "", reason: str = "", limit: int = 100) -> list[Entry]:
        """Return the newest records of a model and a reason ("" = any), oldest first."""
        found = [e for e in self._entries.values() if model in {"", e.model} and reason in {"", e.reason}]
        return sorted(found, key=lambda e: (e.taken_ms, e.name))[-limit:] if limit > 0 else []

    def read(self, name: str) -> CaptureRecord | None:
        """Return a record; None, and it is removed, when it is gone or torn."""
        try:
            return decode_record(CaptureRecord, (self._folder / name).read_bytes(), name=name)
        except (OSError, StateFileError) as error:
            log.warning("record not readable", extra={"name_": name, "reason": str(error)})
            self.remove(name)
            return None

    def counts(self) -> dict[str, int]:
        """Return how many records there are by reason."""
        return dict(Counter(entry.reason for entry in self._entries.values()))


def parse_name(name: str, size_bytes: int) -> Entry | None:
    """Return what a file's name says, None when it is no record's."""
    parts = name.removesuffix(SUFFIX).split(".", 4)
    if not name.endswith(SUFFIX) or len(parts) != 5 or not parts[4]:
        return None
    taken, record, reason, label, model = parts
    if not taken.isdecimal() or not record.isalnum() or not reason.replace("_", "").isalpha():
        return None
    if not label.removeprefix("-").isdecimal() or "/" in model:
        return None
    return Entry(name, int(taken), reason, int(label), model, size_bytes)
