"""The kept prediction log of one model on the device: numbered rows in a file, closed into parts that wait to be sent (ADR 0105).

1. No number is given twice. Before a number is used, `state` says on the disk up to where numbers are reserved, always some ahead; after
   a stop that was not orderly it goes on behind them, and what may be missing is a gap `stopped`, at most so many.
2. Rows are appended to `open` without a sync: a kill takes none, a power cut at most those of the part that is open. A closed part is
   synced, then `state`, then `open` goes; a cut between the three is noticed at the next start.
3. Where there is no room, nothing that was written goes: new rows are left out, and the gap `full` says which.
"""

import logging
import os
import secrets
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from edgefleet_agent.core.durable import read_record, write_file, write_record
from edgefleet_agent.errors import StateFileError
from edgefleet_agent.worker.control.protocol import Entry
from edgefleet_protocol.errors import BadMessageError
from edgefleet_protocol.prediction_parts import (
    FULL,
    LOST,
    SALT_BYTES,
    STOPPED,
    Gap,
    Head,
    Part,
    Release,
    Row,
    decode_head,
    encode_head,
    erase,
    hash_of,
    pack_part,
    sampled,
    unpack_part,
)

PART_BYTES = 64 * 1024
OPEN_BYTES = 4 * PART_BYTES
"""While the disk does not take a part, so much of it is kept: more would not fit into one."""
RESERVED_LEAST = 128
"""So many numbers are always reserved ahead: whenever agentd is killed, a gap says that answers of workers may be missing."""
_FRAME = struct.Struct(">4sII")
_MAGIC = b"EFL1"
SUFFIX = ".part"

log = logging.getLogger(__name__)


class _State(msgspec.Struct, frozen=True, kw_only=True):
    """`state`. part: the next one. seq: the last number that a closed part accounts for.

    files: the number of a part's file is so much higher, as parts of an older log may still wait.
    """

    v: int = 1
    log: str
    part: int = 1
    files: int = 0
    before: bytes = b""
    seq: int = 0
    reserved: int = 0
    is_orderly: bool = True


class _Chunk(msgspec.Struct, frozen=True, array_like=True):
    """A frame of `open`. last: the last number so far. key: sealed, empty: bodies are clear."""

    part: int
    last: int
    ratio: float
    release: Release
    key: bytes
    key_id: str
    rows: list[Row]
    gaps: list[Gap]


_encoder = msgspec.msgpack.Encoder()
_chunk = msgspec.msgpack.Decoder(_Chunk)


class LogParts:
    """Writes one model's log. Not thread-safe; never raises for the disk: what it does not take is a gap."""

    def __init__(self, folder: Path, device: str, model: str) -> None:
        """Go on where the log of this folder ended, or begin one."""
        self._folder = folder
        self._device = device
        self._model = model
        self._gaps: list[Gap] = []
        self._open_bytes = 0
        self._is_begun = False
        self.ratio = 1.0
        self.lost = 0
        self._sizes = {int(path.stem): path.stat().st_size for path in folder.glob(f"*{SUFFIX}")}
        self._state = self._read_state() or self._new_state()
        self._seq = self._state.seq
        self._adopt()
        self._recover()

    # ---- figures

    @property
    def size_bytes(self) -> int:
        """Bytes on the disk."""
        return self._open_bytes + sum(self._sizes.values())

    @property
    def is_open(self) -> bool:
        """Whether something waits to be closed into a part."""
        return self._seq > self._state.seq

    def status(self) -> dict[str, object]:
        """Return how far the log is, for `edge-agent status`: what an auditor compares the server's with."""
        state = self._state
        return {
            "log": state.log,
            "seq": self._seq,
            "parts": state.part - 1,
            "head": state.before.hex(),
            "waiting": len(self._sizes),
            "bytes": self.size_bytes,
            "lost": self.lost,
        }

    # ---- in

    def add(
        self, entries: Sequence[Entry], release: Release, key: bytes, key_id: str, *, lost: int, free_bytes: int
    ) -> None:
        """Number these answers and keep those that are sampled. lost: so many came before them and never got here."""
        if lost > 0:
            self._gap(self._seq + 1, self._seq + lost, LOST)
            self._seq += lost
        first = self._seq + 1
        self._seq += len(entries)
        chosen = [(seq, entries[seq - first]) for seq in sampled(self._state.log, first, self._seq, self.ratio)]
        salts = secrets.token_bytes(SALT_BYTES * len(chosen))
        rows = [
            Row(
                seq, e.at, 0, e.trace_id, e.status, e.latency_us, e.subject,
                salts[SALT_BYTES * i : SALT_BYTES * (i + 1)], 0 if key else -1, e.nonce, e.body,
            )
            for i, (seq, e) in enumerate(chosen)
        ]  # fmt: skip
        if not self._reserve(len(entries)):
            if entries:
                self._gap(first, self._seq, FULL)
            return
        if not rows and not self._gaps:
            return
        chunk = _Chunk(self._state.part, self._seq, self.ratio, release, key, key_id, rows, self._gaps)
        if not self._write(_encoder.encode(chunk), free_bytes) and entries:
            self._gap(first, self._seq, FULL)

    def begin(self) -> None:
        """A worker numbers answers from now on: if agentd is killed before it hears of the first, a gap says so."""
        self._reserve(0)

    def _reserve(self, n: int) -> bool:
        """Have the disk know that numbers up to here may be used; False when it does not take that."""
        self._is_begun = True
        state, ahead = self._state, max(RESERVED_LEAST, 4 * n)
        if self._seq + ahead <= state.reserved and not state.is_orderly:
            return True
        try:
            self._folder.mkdir(parents=True, mode=0o700, exist_ok=True)
            self._save(msgspec.structs.replace(state, reserved=self._seq + 3 * ahead, is_orderly=False))
        except OSError as error:
            log.warning("numbers not reserved", extra={"model": self._model, "reason": str(error)})
            return self._seq <= state.reserved and not state.is_orderly
        return True

    def _write(self, body: bytes, free_bytes: int) -> bool:
        size = len(body) + _FRAME.size
        if size > free_bytes or self._open_bytes + size > OPEN_BYTES:
            return False
        try:
            with (self._folder / "open").open("ab") as file:
                if file.tell() > self._open_bytes:  # half of a frame that the disk did not take
                    file.truncate(self._open_bytes)
                file.write(_FRAME.pack(_MAGIC, len(body), zlib.crc32(body)) + body)
        except OSError as error:
            log.warning("answers not kept", extra={"model": self._model, "reason": str(error)})
            return False
        self._open_bytes += size
        self._gaps = []
        return True

    def _gap(self, first: int, last: int, reason: str) -> None:
        if self._gaps and self._gaps[-1].reason == reason and self._gaps[-1].last == first - 1:
            self._gaps[-1] = Gap(self._gaps[-1].first, last, reason)
        else:
            log.warning("gap in the prediction log", extra={"model": self._model, "first": first, "why": reason})
            self._gaps.append(Gap(first, last, reason))
        self.lost += last - first + 1

    # ---- parts

    @property
    def is_full(self) -> bool:
        """Whether it is time to `close`."""
        return self._open_bytes >= PART_BYTES

    def close(self, *, is_orderly: bool = False) -> bool:
        """Close the part that is open, if any; False when the disk does not take it. is_orderly: the agent ends, nothing comes after."""
        try:
            if self._seq > self._state.seq:
                self._close()
            (self._folder / "open").unlink(missing_ok=True)
            self._open_bytes = 0
            if is_orderly and self._is_begun:
                self._save(msgspec.structs.replace(self._state, is_orderly=True))
        except OSError as error:
            log.warning("part of the prediction log not closed", extra={"model": self._model, "reason": str(error)})
            return False
        return True

    def _close(self) -> None:
        state = self._state
        chunks = [chunk for _, chunk in self._frames() if chunk.part == state.part]
        part = _joined(self._device, self._model, state, chunks, (self._seq, self.ratio, self._gaps))
        data = pack_part(part)
        path = self._path(state.files + state.part)
        try:
            write_file(path, data)
            self._closed(part, self._seq, len(data))
        except OSError:
            if self._state is state:  # the number is given again, to a part with more rows: this one is never sent
                path.unlink(missing_ok=True)
            raise

    def _closed(self, part: Part, last: int, n_bytes: int) -> None:
        state = self._state
        reserved = max(state.reserved, last)
        after = msgspec.structs.replace(state, part=state.part + 1, before=hash_of(part), seq=last, reserved=reserved)
        try:
            self._save(after)
        except OSError:
            if self._read_state() != after:
                raise
            self._state = after  # there, but not synced: after a power cut the old one takes the part over
        self._seq, self._gaps = last, []
        self._sizes[state.files + state.part] = n_bytes

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:08d}{SUFFIX}"

    def waiting(self) -> list[int]:
        """Return the numbers of the files with parts that are not yet confirmed, oldest first."""
        return sorted(self._sizes)

    def read(self, number: int) -> bytes:
        """Return a part as it is sent. Raises OSError."""
        return self._path(number).read_bytes()

    def remove(self, number: int) -> None:
        """Let a part go: the server has it."""
        self._sizes.pop(number, None)
        try:
            self._path(number).unlink(missing_ok=True)
        except OSError as error:  # it is sent again at the next start, and counts once
            log.warning("part not removed", extra={"model": self._model, "reason": str(error)})

    def erase(self, until: Mapping[bytes, int], now_ms: int) -> set[str]:
        """Erase the rows of subjects from what is here; return the traces of what went. Raises OSError: then some may still be here."""
        if not self.close():
            raise OSError("the part that is open could not be closed")
        traces: set[str] = set()
        for number in self.waiting():
            try:
                before = unpack_part(self.read(number))
            except BadMessageError as error:
                # nobody can read it, here or on the server; the others are erased all the same
                log.warning("part not readable", extra={"model": self._model, "reason": str(error)})
                continue
            after = erase(before, until, now_ms)
            if after is not before:
                data = pack_part(after)
                write_file(self._path(number), data)
                self._sizes[number] = len(data)
                traces |= {row.trace_id for row in before.rows} - {row.trace_id for row in after.rows}
        return traces

    # ---- after a start

    def _read_state(self) -> _State | None:
        try:
            return read_record(_State, self._folder / "state")
        except (OSError, StateFileError) as error:
            log.warning("state of the prediction log not readable", extra={"model": self._model, "reason": str(error)})
            return None

    def _new_state(self) -> _State:
        """Return the state of a new log. Closed parts of an older one stay; what was open goes: nothing says what it follows."""
        with suppress(OSError):
            (self._folder / "open").unlink(missing_ok=True)
        return _State(log=secrets.token_hex(8), files=max(self._sizes, default=0))

    def _save(self, state: _State) -> None:
        write_record(self._folder / "state", state)
        self._state = state

    def _adopt(self) -> None:
        """Take over a part that was written before the state could say so."""
        try:
            data = self.read(self._state.files + self._state.part)
            part = unpack_part(data)
            head = decode_head(part.head)
            if (head.log, head.before) == (self._state.log, self._state.before):
                self._closed(part, head.last, len(data))
                self.lost += sum(gap.last - gap.first + 1 for gap in head.gaps)
        except (OSError, BadMessageError):
            self._sizes.pop(self._state.files + self._state.part, None)  # its number is given again

    def _recover(self) -> None:
        """Close what an earlier run left open, with a gap for what may be missing (rule 1)."""
        for end, chunk in self._frames():
            self._open_bytes = end
            if chunk.part == self._state.part:
                self._seq, self.ratio = max(self._seq, chunk.last), chunk.ratio
        if not self._state.is_orderly and self._state.reserved > self._seq:
            self._gap(self._seq + 1, self._state.reserved, STOPPED)
            self._seq = self._state.reserved
        if self._seq > self._state.seq:
            self.close()

    def _frames(self) -> Iterator[tuple[int, _Chunk]]:
        """Return what `open` holds, each with where it ends, up to what a power cut tore or another version wrote."""
        try:
            data = (self._folder / "open").read_bytes()
        except OSError:
            return
        at = 0
        while at + _FRAME.size <= len(data):
            magic, length, crc = _FRAME.unpack_from(data, at)
            body = data[at + _FRAME.size : at + _FRAME.size + length]
            if magic != _MAGIC or len(body) != length or zlib.crc32(body) != crc:
                return  # the gap after it says so
            try:
                chunk = _chunk.decode(body)
            except msgspec.MsgspecError as error:
                log.warning("answers not readable", extra={"model": self._model, "reason": str(error)})
                return
            at += _FRAME.size + length
            yield at, chunk


def _joined(
    device: str, model: str, state: _State, chunks: Sequence[_Chunk], rest: tuple[int, float, list[Gap]]
) -> Part:
    """Return the next part: what the chunks hold. rest: the last number, the ratio, and gaps that are in no chunk."""
    last, ratio, gaps = rest
    releases: dict[Release, int] = {}
    keys: dict[bytes, int] = {}
    rows: list[Row] = []
    found: list[Gap] = []
    key_id = ""
    for chunk in chunks:
        release = releases.setdefault(chunk.release, len(releases))
        epoch = keys.setdefault(chunk.key, len(keys)) if chunk.key else -1
        key_id = chunk.key_id or key_id
        rows += [msgspec.structs.replace(row, release=release, epoch=epoch) for row in chunk.rows]
        found += chunk.gaps
    head = Head(
        v=1, device=device, model=model, log=state.log, part=state.part, before=state.before, first=state.seq + 1,
        last=last, ratio=ratio, releases=list(releases), keys=list(keys), key_id=key_id, gaps=[*found, *gaps],
    )  # fmt: skip
    return Part(encode_head(head), rows, [])


def kept_folders(folder: Path) -> list[str]:
    """Return the models that have a log here."""
    try:
        return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
    except OSError:
        return []
