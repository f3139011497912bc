"""Block transfer: binary requests and data, leaves of 32 KiB, each checked on arrival (docs/protocol/blocks.md).

Request, 24 bytes + bitmap, big-endian: ver u8, flags u8, leaves a message u8, credit u8, req_id u32, blob prefix 8 bytes,
first leaf u32, bitmap bytes u16, repeats u16; then a bitmap of leaves still wanted from `first`, at most 256 leaves.
`req_id` rises; a newer request replaces the device's older one. `repeats`: the request is that of as many ids before, in case it was
lost; a server that has taken one of those does not answer it again.
Data, 20 bytes + leaves: ver u8, flags u8, count u16, req_id u32 (0 = fan-out), first leaf u32, blob prefix 8 bytes.
An error is data with flag bit 0 and a 6-byte body: code u16, retry_ms u32.
"""

from __future__ import annotations

import hashlib
import hmac
import itertools
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum

from edgefleet_protocol.digest import Sha256
from edgefleet_protocol.errors import BadMessageError

BLOCK_VERSION = 1
LEAF_BYTES = 32 * 1024
LEAF_HASH_BYTES = 32
MAX_MESSAGE_LEAVES = 4
MAX_REQUEST_LEAVES = 256
MAX_CREDIT = 32
MAX_REPEATS = 6
PREFIX_BYTES = 8
FLAG_ERROR = 1

_REQUEST = struct.Struct(">BBBBI8sIHH")
_DATA = struct.Struct(">BBHII8s")
_ERROR = struct.Struct(">HI")
REQUEST_HEADER_BYTES = _REQUEST.size
DATA_HEADER_BYTES = _DATA.size
MAX_DATA_MESSAGE_BYTES = DATA_HEADER_BYTES + MAX_MESSAGE_LEAVES * LEAF_BYTES


class BlockErrorCode(IntEnum):
    """Why the other side sends no data."""

    GONE = 1
    BUSY = 2
    DENIED = 3
    TOO_BIG = 4


@dataclass(frozen=True, slots=True)
class BlockRequest:
    """Leaves of one blob that a device still wants, strictly rising and within 256 of the first.

    repeats: how many ids before this one asked for the same.
    """

    req_id: int
    blob_prefix: bytes
    wanted: tuple[int, ...]
    leaves_per_message: int = MAX_MESSAGE_LEAVES
    credit: int = 8
    repeats: int = 0


@dataclass(frozen=True, slots=True)
class BlockData:
    """Consecutive leaves from `first_leaf`; the last leaf of a blob may be short. `payload` holds them back to back."""

    req_id: int
    blob_prefix: bytes
    first_leaf: int
    count: int
    payload: bytes

    def leaves(self) -> Iterator[tuple[int, bytes]]:
        """Yield (leaf number, bytes)."""
        for i in range(self.count):
            yield self.first_leaf + i, self.payload[i * LEAF_BYTES : (i + 1) * LEAF_BYTES]


@dataclass(frozen=True, slots=True)
class BlockError:
    """The request cannot be served now (BUSY, with a wait) or at all."""

    req_id: int
    blob_prefix: bytes
    code: BlockErrorCode
    retry_ms: int = 0


def blob_prefix(sha256: Sha256) -> bytes:
    """Return the first 8 bytes of a blob's digest, as requests and data carry it."""
    return bytes.fromhex(sha256[: 2 * PREFIX_BYTES])


def leaf_count(length: int) -> int:
    """Return how many leaves a blob of `length` bytes has; 0 for an empty one."""
    return -(-length // LEAF_BYTES)


def leaf_index(chunks: Iterable[bytes] | bytes) -> bytes:
    """Return the leaf index of a blob: the sha256 of each 32 KiB leaf, back to back. Chunks may have any size."""
    if isinstance(chunks, bytes | bytearray | memoryview):
        chunks = (bytes(chunks),)
    out = bytearray()
    pending = bytearray()
    for chunk in chunks:
        pending += chunk
        while len(pending) >= LEAF_BYTES:
            out += hashlib.sha256(memoryview(pending)[:LEAF_BYTES]).digest()
            del pending[:LEAF_BYTES]
    if pending:
        out += hashlib.sha256(pending).digest()
    return bytes(out)


def check_leaf(index: bytes, leaf: int, data: bytes | memoryview) -> bool:
    """Say whether `data` is leaf number `leaf` by the index. False for a leaf the index does not have."""
    start = leaf * LEAF_HASH_BYTES
    expected = index[start : start + LEAF_HASH_BYTES]
    return (
        leaf >= 0 and len(expected) == LEAF_HASH_BYTES and hmac.compare_digest(expected, hashlib.sha256(data).digest())
    )


def encode_request(request: BlockRequest) -> bytes:
    """Return the bytes of a request. Raises ValueError when its leaves are not 1 … 256, rising and close together."""
    wanted = request.wanted
    if not wanted or len(request.blob_prefix) != PREFIX_BYTES:
        raise ValueError("a block request names an 8-byte blob prefix and at least one leaf")
    first, last = wanted[0], wanted[-1]
    if any(a >= b for a, b in itertools.pairwise(wanted)) or last - first >= MAX_REQUEST_LEAVES:
        raise ValueError(f"leaves must rise and lie within {MAX_REQUEST_LEAVES} of the first")
    bitmap = bytearray((last - first) // 8 + 1)
    for leaf in wanted:
        bitmap[(leaf - first) // 8] |= 1 << ((leaf - first) % 8)
    head = _REQUEST.pack(
        BLOCK_VERSION,
        0,
        request.leaves_per_message,
        request.credit,
        request.req_id,
        request.blob_prefix,
        first,
        len(bitmap),
        request.repeats,
    )
    return head + bytes(bitmap)


def decode_request(data: bytes) -> BlockRequest:
    """Return the request in `data`. Raises BadMessageError."""
    if len(data) < REQUEST_HEADER_BYTES:
        raise BadMessageError("block request is shorter than its header")
    version, _flags, per_message, credit, req_id, prefix, first, bitmap_bytes, repeats = _REQUEST.unpack_from(data)
    bitmap = data[REQUEST_HEADER_BYTES:]
    if version != BLOCK_VERSION:
        raise BadMessageError(f"block request has version {version}; this reader knows {BLOCK_VERSION}")
    if len(bitmap) != bitmap_bytes or not 1 <= bitmap_bytes <= MAX_REQUEST_LEAVES // 8:
        raise BadMessageError("block request's bitmap has a wrong length")
    if not 1 <= per_message <= MAX_MESSAGE_LEAVES or not 1 <= credit <= MAX_CREDIT or req_id == 0:
        raise BadMessageError("block request has leaves a message, credit or id out of range")
    wanted = tuple(first + i for i in range(bitmap_bytes * 8) if bitmap[i // 8] >> (i % 8) & 1)
    if not wanted or wanted[0] != first or wanted[-1] > 0xFFFFFFFF:
        raise BadMessageError("block request's bitmap is empty or does not begin at its first leaf")
    return BlockRequest(req_id, prefix, wanted, per_message, credit, repeats)


def encode_data(message: BlockData | BlockError) -> bytes:
    """Return the bytes of block data or of a block error."""
    if isinstance(message, BlockError):
        head = _DATA.pack(BLOCK_VERSION, FLAG_ERROR, 0, message.req_id, 0, message.blob_prefix)
        return head + _ERROR.pack(message.code, message.retry_ms)
    if not 1 <= message.count <= MAX_MESSAGE_LEAVES or not _payload_fits(message.count, len(message.payload)):
        raise ValueError("block data's payload does not fit its leaf count")
    head = _DATA.pack(BLOCK_VERSION, 0, message.count, message.req_id, message.first_leaf, message.blob_prefix)
    return head + message.payload


def decode_data(data: bytes) -> BlockData | BlockError:
    """Return block data or block error. Raises BadMessageError."""
    if len(data) < DATA_HEADER_BYTES:
        raise BadMessageError("block data is shorter than its header")
    version, flags, count, req_id, first, prefix = _DATA.unpack_from(data)
    body = data[DATA_HEADER_BYTES:]
    if version != BLOCK_VERSION:
        raise BadMessageError(f"block data has version {version}; this reader knows {BLOCK_VERSION}")
    if flags & FLAG_ERROR:
        if len(body) != _ERROR.size:
            raise BadMessageError("block error has a wrong length")
        code, retry_ms = _ERROR.unpack(body)
        try:
            return BlockError(req_id, prefix, BlockErrorCode(code), retry_ms)
        except ValueError as error:
            raise BadMessageError(f"block error has unknown code {code}") from error
    if not 1 <= count <= MAX_MESSAGE_LEAVES or not _payload_fits(count, len(body)):
        raise BadMessageError("block data's payload does not fit its leaf count")
    return BlockData(req_id, prefix, first, count, body)


def _payload_fits(count: int, length: int) -> bool:
    return (count - 1) * LEAF_BYTES < length <= count * LEAF_BYTES
