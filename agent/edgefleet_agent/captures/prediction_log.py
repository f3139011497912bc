"""The prediction log: what each model answered when, on this device only, for audit (ADR 0031). No input is in it.

1. A block is what a worker tells at once: at most a second of answers, compressed. agentd appends blocks to a file, FILES files of
   `cap_bytes` in all; the oldest file goes first.
2. Nothing is written while nothing is predicted. Blocks wait at most FLUSH_S in memory, or until a reader
   asks; a kill of agentd loses those.
3. At most `daily_bytes` a day are written, because flash wears: what is over that is counted, and the next block that is written
   says how many predictions are missing before it.
4. A frame is magic, length, CRC-32 and the number of predictions missing; a torn or damaged one is skipped by its reader.
"""

import logging
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from edgefleet_agent.connection.budget import Bucket, daily

FILES = 4
FLUSH_S = 10.0
FLUSH_BYTES = 32 * 1024
MAX_BLOCK_BYTES = 1 << 20
_MAGIC = b"EFP1"
_HEAD = struct.Struct(">4sIII")

log = logging.getLogger(__name__)


class Row(msgspec.Struct, frozen=True, array_like=True):
    """One answer. after_ms: since the block began. latency_us: of the run alone. top: class index, -1 when it is no classification.

    score: the model's raw output for that class, or its first number. nonfinite: NaN or an infinity came out.
    """

    after_ms: int
    trace_id: str
    latency_us: int
    top: int = -1
    score: float = 0.0
    nonfinite: bool = False


class Block(msgspec.Struct, frozen=True, array_like=True):
    """Answers of one worker. t0_ms: unix milliseconds. sha256: of the bundle."""

    v: int
    model: str
    version: str
    sha256: str
    lane: str
    t0_ms: int
    rows: list[Row]


class Prediction(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the log as `edge-agent predictions` shows it. missing: predictions before this one that were not written."""

    at_ms: int
    model: str
    version: str
    sha256: str
    lane: str
    trace_id: str
    latency_ms: float
    top: int
    score: float
    nonfinite: bool = False
    missing: int = 0


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Block)


def pack_block(block: Block) -> bytes:
    """Return a block compressed."""
    return zlib.compress(_encoder.encode(block), 1)


def unpack_block(body: bytes) -> Block:
    """Return the block. Raises ValueError for anything else."""
    try:
        plain = zlib.decompressobj().decompress(body, MAX_BLOCK_BYTES)
        return _decoder.decode(plain)
    except (zlib.error, msgspec.MsgspecError) as error:
        raise ValueError(f"not a block of predictions: {error}") from error


class PredictionLog:
    """Appends blocks. Not thread-safe; a disk that takes nothing is logged and costs the block."""

    def __init__(self, folder: Path, cap_bytes: int, daily_bytes: int, now_s: float) -> None:
        self._folder = folder
        self._file_bytes = cap_bytes // FILES
        self._budget: Bucket | None = daily(daily_bytes, now_s)
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._missing = 0

    @property
    def is_on(self) -> bool:
        """Whether anything is kept."""
        return self._file_bytes > 0

    def add(self, body: bytes, n: int, now_s: float) -> bool:
        """Take a block of n predictions; True when it is time to `flush`."""
        if self._budget is not None:
            self._budget = self._budget.now(now_s)
            if self._budget.level < len(body):
                self._missing += n
                return False
            self._budget = self._budget.less(len(body) + _HEAD.size)
        frame = _HEAD.pack(_MAGIC, len(body), zlib.crc32(body), min(self._missing, 2**32 - 1)) + body
        self._missing = 0
        self._pending.append(frame)
        self._pending_bytes += len(frame)
        return self._pending_bytes >= FLUSH_BYTES

    def flush(self) -> None:
        """Append what is pending; begin another file when this one is full."""
        if not self._pending:
            return
        data, self._pending, self._pending_bytes = b"".join(self._pending), [], 0
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            files = log_files(self._folder)
            newest = files[-1] if files else self._folder / "00000001.log"
            if files and newest.stat().st_size + len(data) > self._file_bytes:
                newest = self._folder / f"{int(newest.stem) + 1:08d}.log"
                files.append(newest)
            for old in files[:-FILES]:
                old.unlink(missing_ok=True)
            with newest.open("ab") as file:
                file.write(data)
        except OSError as error:
            log.warning("predictions not logged", extra={"reason": str(error)})


def log_files(folder: Path) -> list[Path]:
    """Return the files of the log, oldest first."""
    return sorted(path for path in folder.glob("*.log") if path.stem.isdecimal())


def read_predictions(folder: Path, *, model: str = "", trace_id: str = "") -> Iterator[Prediction]:
    """Yield what the log holds, oldest first, of one model or one trace where asked for. Raises OSError."""
    for path in log_files(folder):
        for missing, block in _blocks(path.read_bytes()):
            yield from _predictions(block, missing, model, trace_id)


def _predictions(block: Block, missing: int, model: str, trace_id: str) -> Iterator[Prediction]:
    if model not in {"", block.model}:
        return
    for row in block.rows:
        if trace_id in {"", row.trace_id}:
            yield Prediction(
                at_ms=block.t0_ms + row.after_ms,
                model=block.model,
                version=block.version,
                sha256=block.sha256,
                lane=block.lane,
                trace_id=row.trace_id,
                latency_ms=row.latency_us / 1_000,
                top=row.top,
                score=row.score,
                nonfinite=row.nonfinite,
                missing=missing,
            )
        missing = 0


def blocks_of(data: bytes) -> Iterator[Block]:
    """Yield the blocks of one file, oldest first; what cannot be read is skipped."""
    for _, block in _blocks(data):
        yield block


def _blocks(data: bytes) -> Iterator[tuple[int, Block]]:
    for missing, body in _frames(data):
        try:
            block = unpack_block(body)
        except ValueError:
            continue
        yield missing, block


def _frames(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield (missing, body) of each whole frame; what lies between is skipped."""
    at = data.find(_MAGIC)
    while at >= 0 and at + _HEAD.size <= len(data):
        _, length, crc, missing = _HEAD.unpack_from(data, at)
        body = data[at + _HEAD.size : at + _HEAD.size + length]
        if len(body) == length and zlib.crc32(body) == crc:
            yield missing, body
            at = data.find(_MAGIC, at + _HEAD.size + length)
        else:
            at = data.find(_MAGIC, at + 1)


def text_of(found: Sequence[Prediction], iso: Sequence[str]) -> str:
    """Return predictions as a table. iso: their times as text."""
    lines = [f"{'time':24} {'model':20} {'lane':9} {'top':>5} {'score':>9} {'ms':>8}  trace"]
    for one, at in zip(found, iso, strict=True):
        if one.missing:
            lines.append(f"({one.missing} predictions before this one were not written: the day's bytes were used up)")
        top = "-" if one.top < 0 else str(one.top)
        name = f"{one.model}@{one.version}"
        lines.append(
            f"{at:24} {name:20} {one.lane:9} {top:>5} {one.score:>9.4g} {one.latency_ms:>8.3f}  {one.trace_id}"
        )
    return "\n".join(lines)
