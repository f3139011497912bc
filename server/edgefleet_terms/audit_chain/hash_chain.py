"""The chain of the audit trail: each entry's hash covers the one before it.

hash(n) = SHA-256(0x00 ‖ hash(n − 1) ‖ canonical JSON of the entry); before entry 1 stand 32 zero bytes. Canonical JSON has its keys
sorted, no spaces, and UTF-8 as it is (RFC 8785 for what stands here: texts and whole numbers). Entries count from 1 without gaps.
"""

import hashlib
from datetime import UTC, datetime
from typing import Final

import msgspec

GENESIS: Final = bytes(32)
"""The hash before the first entry."""
_ROW: Final = b"\x00"
_HASH_HEX: Final = 64


class AuditRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What the hash of an entry covers. Its fields stand in the order of canonical JSON. at: UTC with microseconds."""

    action: str
    actor: str
    at: str
    n: int
    object: str
    request_id: str
    status: int


class ChainedRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One line of an export: an entry and its hash, 64 hex digits. Canonical JSON too."""

    action: str
    actor: str
    at: str
    hash: str
    n: int
    object: str
    request_id: str
    status: int

    @property
    def record(self) -> AuditRecord:
        """What the hash covers."""
        return AuditRecord(
            action=self.action,
            actor=self.actor,
            at=self.at,
            n=self.n,
            object=self.object,
            request_id=self.request_id,
            status=self.status,
        )


_ENCODER: Final = msgspec.json.Encoder()
_DECODER: Final = msgspec.json.Decoder(ChainedRecord)


class BadLineError(ValueError):
    """A line of an export is no entry."""


def time_text(at: datetime) -> str:
    """Return a time as entries have it: `2026-12-01T08:15:30.000125Z`. at: aware."""
    utc = at.astimezone(UTC)
    return f"{utc.year:04}-{utc:%m-%dT%H:%M:%S.%f}Z"


def entry_hash(before: bytes, record: AuditRecord) -> bytes:
    """Return the hash of an entry. before: that of the entry before it."""
    return hashlib.sha256(_ROW + before + _ENCODER.encode(record)).digest()


def chained(before: bytes, record: AuditRecord) -> ChainedRecord:
    """Return an entry with its hash."""
    return ChainedRecord(
        action=record.action,
        actor=record.actor,
        at=record.at,
        hash=entry_hash(before, record).hex(),
        n=record.n,
        object=record.object,
        request_id=record.request_id,
        status=record.status,
    )


def line_of(entry: ChainedRecord) -> bytes:
    """Return an entry as a line of an export, with its end of line."""
    return _ENCODER.encode(entry) + b"\n"


def entry_of(line: bytes) -> ChainedRecord:
    """Return the entry of a line. Raises BadLineError for what no export has, also for the same entry in another notation."""
    try:
        entry = _DECODER.decode(line)
    except msgspec.MsgspecError as error:
        raise BadLineError(str(error)) from error
    if _ENCODER.encode(entry) != line.rstrip(b"\n"):
        raise BadLineError("it is not written as an export writes it")
    return entry


def hash_of(text: str) -> bytes | None:
    """Return the 32 bytes of 64 lower-case hex digits, None for anything else."""
    try:
        found = bytes.fromhex(text)
    except ValueError:
        return None
    return found if len(text) == _HASH_HEX and found.hex() == text else None
