"""Parts of a kept prediction log: what a device sends of its answers, and what proves that none is missing (ADR 0105). Pure.

1. Every answer of a model on a device has a number, `seq`, from 1 on. A part says what became of each number from `first` to `last`:
   a row, a gap that the device knows of, left out by sampling, or erased.
2. Sampling is no choice of the device: `sampled` says which numbers belong to the log.
3. A part's hash covers its head and the hash of each row; the head has the hash of the part before. A row has random bytes of its own,
   so that its hash says nothing of it once it is erased: then the hash alone stays, and the chain can still be checked.
4. `body` is the answer (`Answer`), clear or encrypted with the key of its epoch, which is sealed to the tenant's key (`hpke`).
"""

import hashlib
import hmac
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from heapq import merge
from typing import Any

import msgspec

from edgefleet_protocol.errors import BadMessageError

REASON = "log"
"""Of the `Sample` that carries a part; its `record` is `<model>/<part>`."""
MAX_PART_BYTES = 1 << 20
SALT_BYTES = 16
SUBJECT_BYTES = 16
HEADS = b"edgefleet.heads"
"""In the metadata of a Parquet file: the heads of its parts."""
_WHOLE = 1 << 32
"""Shares are whole parts of this, so that device and checker come to the same numbers."""
STOPPED, LOST, FULL = "stopped", "lost", "full"
"""Why numbers are missing: the device or its agent was stopped (at most so many), a worker was (exactly so many), no room."""


class Answer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a model answered. labels, scores: the best of the first sample. classes: of each sample.

    outputs: name → [shape, numbers], where there are no labels and they are few. key: of the caller. subject: of the caller, where
    the bundle's policy keeps it.
    fields: inputs that the policy keeps; dropped: those that it does not, not all where there are many.
    """

    labels: list[str] = []
    scores: list[float] = []
    classes: list[int] = []
    outputs: dict[str, tuple[list[int], list[float]]] = {}
    key: str = ""
    subject: str = ""
    fields: dict[str, Any] = {}
    dropped: list[str] = []


class Row(msgspec.Struct, frozen=True, array_like=True):
    """One answer. at: unix milliseconds. release: its place in the head's `releases`. status: ok, nonfinite, error or timeout.

    subject: keyed hash (`pseudonym`), empty where the caller named none. epoch: place in the head's `keys`, -1: `body` is clear.
    nonce: of `body` under that key.
    """

    seq: int
    at: int
    release: int
    trace_id: str
    status: str
    latency_us: int
    subject: bytes
    salt: bytes
    epoch: int
    nonce: int
    body: bytes


class Gap(msgspec.Struct, frozen=True, array_like=True):
    """Numbers that have no row, and why."""

    first: int
    last: int
    reason: str


class Release(msgspec.Struct, frozen=True, array_like=True):
    """What answered."""

    version: str
    sha256: str
    lane: str


class Head(msgspec.Struct, frozen=True, array_like=True):
    """What a part says of itself. log: chosen by the device when it begins to count; the numbers of another log are others.

    before: hash of part - 1, empty for the first. keys: sealed to the public key whose id is key_id. ratio: share of the numbers that
    are in the log.
    """

    v: int
    device: str
    model: str
    log: str
    part: int
    before: bytes
    first: int
    last: int
    ratio: float
    releases: list[Release]
    keys: list[bytes]
    key_id: str
    gaps: list[Gap]


class Erased(msgspec.Struct, frozen=True, array_like=True):
    """What stays of an erased row."""

    seq: int
    leaf: bytes


class Part(msgspec.Struct, frozen=True, array_like=True):
    """A part. head: a `Head`, as it was encoded: its bytes are what was hashed."""

    head: bytes
    rows: list[Row]
    erased: list[Erased]


_encoder = msgspec.msgpack.Encoder()
_head = msgspec.msgpack.Decoder(Head)
_part = msgspec.msgpack.Decoder(Part)


def leaf(row: Row) -> bytes:
    """Return the hash of a row."""
    return hashlib.sha256(b"\0" + _encoder.encode(row)).digest()


def part_hash(head: bytes, leaves: Iterable[tuple[int, bytes]]) -> bytes:
    """Return the hash of a part. leaves: number and hash of each row, also of those that were erased."""
    digest = hashlib.sha256(b"\1" + len(head).to_bytes(4, "big") + head)
    for seq, one in sorted(leaves):
        digest.update(seq.to_bytes(8, "big") + one)
    return digest.digest()


def hash_of(part: Part) -> bytes:
    """Return the hash of a whole part."""
    return part_hash(part.head, [(r.seq, leaf(r)) for r in part.rows] + [(e.seq, e.leaf) for e in part.erased])


def pseudonym(key: bytes, subject: str) -> bytes:
    """Return what stands for a subject in a log. key: of the model's log, the same on all devices."""
    return hmac.digest(key, subject.encode(), "sha256")[:SUBJECT_BYTES]


def sampled(log: str, first: int, last: int, ratio: float) -> Iterator[int]:
    """Return the numbers from `first` to `last` that belong to a log of this ratio, in order: of each 1 / ratio one, drawn by the log.

    What it takes grows with how many these are, not with the numbers between them: a device may say that it left out millions.
    """
    share = round(ratio * _WHOLE)
    if share >= _WHOLE:
        yield from range(first, last + 1)
    if not 0 < share < _WHOLE:
        return
    block = ((first + 1) * share - 1) // _WHOLE
    begin = block * _WHOLE // share
    while begin <= last:
        end = (block + 1) * _WHOLE // share
        drawn = hashlib.sha256(f"{log}.{block}".encode()).digest()[:8] if end - begin > 1 else b""
        chosen = begin + int.from_bytes(drawn, "big") % (end - begin)
        if first <= chosen <= last:
            yield chosen
        block, begin = block + 1, end


def encode_head(head: Head) -> bytes:
    """Return the bytes of a head."""
    return _encoder.encode(head)


def decode_head(data: bytes) -> Head:
    """Return the head. Raises BadMessageError."""
    try:
        return _head.decode(data)
    except msgspec.MsgspecError as error:
        raise BadMessageError(f"not the head of a part of a prediction log: {error}") from error


def pack_part(part: Part) -> bytes:
    """Return a part as it is sent and kept."""
    return zlib.compress(_encoder.encode(part), 1)


def unpack_part(data: bytes) -> Part:
    """Return the part. Raises BadMessageError."""
    try:
        inflate = zlib.decompressobj()
        plain = inflate.decompress(data, MAX_PART_BYTES)
        if not inflate.eof:
            raise BadMessageError("a part of a prediction log is cut off, or too long")
        return _part.decode(plain)
    except (zlib.error, msgspec.MsgspecError) as error:
        raise BadMessageError(f"not a part of a prediction log: {error}") from error


def erase(part: Part, until: Mapping[bytes, int], now: int) -> Part:
    """Return the part without the rows of these subjects up to a time each; the same one where there are none.

    Times in unix milliseconds; a row from after `now` was stamped by a clock that is wrong, and goes too.
    """
    gone = [row for row in part.rows if row.subject in until and (row.at <= until[row.subject] or row.at > now)]
    if not gone:
        return part
    numbers = {row.seq for row in gone}
    left = [row for row in part.rows if row.seq not in numbers]
    erased = [*part.erased, *(Erased(row.seq, leaf(row)) for row in gone)]
    return Part(part.head, left, sorted(erased, key=lambda one: one.seq))


def columns_of(body: bytes) -> dict[str, Any]:
    """Return the columns of a clear answer; none where a device wrote what is no answer that JSON can say."""
    try:
        answer = msgspec.msgpack.decode(body, type=Answer)
        text = msgspec.json.encode(answer).decode()
    except (msgspec.MsgspecError, TypeError, ValueError, RecursionError):
        return {}
    return {
        "label": answer.labels[0] if answer.labels else None,
        "score": answer.scores[0] if answer.scores and answer.scores[0] == answer.scores[0] else None,
        "answer": text,
    }


def left_open(head: Head, seqs: Sequence[int]) -> Iterator[range]:
    """Return the numbers of a part that are neither among `seqs` (rows and erased ones, in order) nor in a gap, in ranges."""
    at = head.first
    for first, last in merge([(seq, seq) for seq in seqs], sorted((gap.first, gap.last) for gap in head.gaps)):
        if first > at:
            yield range(at, min(first, head.last + 1))
        at = max(at, last + 1)
    if at <= head.last:
        yield range(at, head.last + 1)


def unexplained(head: Head, seqs: Sequence[int]) -> Iterator[int]:
    """Return the numbers that are left open and belong to the log."""
    ranges = left_open(head, seqs)
    return (seq for one in ranges for seq in sampled(head.log, one.start, one.stop - 1, head.ratio))
