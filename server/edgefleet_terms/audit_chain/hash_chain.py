"""The chain of the audit trail: each entry's hash covers the one before it.

hash(n) = SHA-256(0x00 ‖ hash(n − 1) ‖ canonical JSON of the entry); before entry 1 stand 32 zero bytes. Canonical JSON has its keys
sorted, no spaces, and UTF-8 as it is (RFC 8785 for what stands here: texts and whole numbers). Entries count from 1 without gaps.

A line of an export is the same JSON with the hash as one more key. It is taken apart, not parsed: a million take seconds.
"""

import hashlib
import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, NamedTuple

GENESIS: Final = bytes(32)
"""The hash before the first entry."""
_ROW: Final = b"\x00"
_HASH_HEX: Final = 64
_TEXT: Final = rb'"[^"\\\x00-\x1f]*(?:\\(?:["\\bfnrt]|u00[01][0-9a-f])[^"\\\x00-\x1f]*)*"'
_LINE: Final = re.compile(
    rb'(\{"action":' + _TEXT + rb',"actor":' + _TEXT + rb',"at":"[0-9T:.Z-]{27}"),"hash":"([0-9a-f]{64})","n":([1-9][0-9]{0,18})'
    rb'(,"object":' + _TEXT + rb',"request_id":' + _TEXT + rb',"status":[0-9]{1,5}\})\n?'
)  # fmt: skip


class BadLineError(ValueError):
    """A line of an export is no entry."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRecord:
    """What the hash of an entry covers. Its fields stand in the order of canonical JSON. at: UTC with microseconds."""

    action: str
    actor: str
    at: str
    n: int
    object: str
    request_id: str
    status: int


class ChainedEntry(NamedTuple):
    """An entry and its hash, 64 hex digits. begin, end: its canonical JSON before and behind the number."""

    n: int
    hash: str
    begin: bytes
    end: bytes

    def body(self, n: int) -> bytes:
        """Return the canonical JSON that it would have as entry `n`."""
        return b'%b,"n":%d%b' % (self.begin, n, self.end)

    def line(self) -> bytes:
        """Return it as a line of an export, with its end of line."""
        return b'%b,"hash":"%b","n":%d%b\n' % (self.begin, self.hash.encode(), self.n, self.end)

    def record(self) -> AuditRecord:
        """Return what its hash covers, parsed."""
        return AuditRecord(**json.loads(self.body(self.n)))


def time_text(at: datetime) -> str:
    """Return a time as entries have it: `2026-12-01T08:15:30.000125Z`. at: aware."""
    utc = at.astimezone(UTC)
    return f"{utc.year:04}-{utc:%m-%dT%H:%M:%S.%f}Z"


def entry_hash(before: bytes, body: bytes) -> bytes:
    """Return the hash of an entry. before: that of the entry before it; body: its canonical JSON."""
    return hashlib.sha256(_ROW + before + body).digest()


def with_hash(record: AuditRecord, own: str) -> ChainedEntry:
    """Return an entry with the hash that somebody keeps of it."""
    fields = {
        "action": record.action,
        "actor": record.actor,
        "at": record.at,
        "n": record.n,
        "object": record.object,
        "request_id": record.request_id,
        "status": record.status,
    }
    text = json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode()
    begin, end = text.split(b',"n":%d,"object":' % record.n, 1)  # no text in it has a quote that is not escaped
    return ChainedEntry(record.n, own, begin, b',"object":' + end)


def chained(before: bytes, record: AuditRecord) -> ChainedEntry:
    """Return an entry with its hash. before: that of the entry before it."""
    bare = with_hash(record, "")
    return bare._replace(hash=entry_hash(before, bare.body(record.n)).hex())


def entry_of(line: bytes) -> ChainedEntry:
    """Return the entry of a line. Raises BadLineError for what no export writes, also for the same entry in another notation."""
    found = _LINE.fullmatch(line)
    if found is None:
        raise BadLineError("it is not written as an export writes it")
    try:
        if not line.isascii():
            line.decode()
    except UnicodeDecodeError as error:
        raise BadLineError("it is not UTF-8") from error
    begin, own, n, end = found.groups()
    return ChainedEntry(int(n), own.decode(), begin, end)


def hash_of(text: str) -> bytes | None:
    """Return the 32 bytes of 64 lower-case hex digits, None for anything else."""
    try:
        found = bytes.fromhex(text)
    except ValueError:
        return None
    return found if len(text) == _HASH_HEX and found.hex() == text else None
