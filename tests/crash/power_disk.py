"""The disk of `power_cuts.py` after a power cut: which writes a volatile cache may lose, and what is left of the agent's state.

QEMU's `blklogwrites` logs all writes and flushes of a run in the format of the kernel's dm-log-writes: a superblock, then entries of one
sector, each with its data. What came before the last flush is on the disk, and what was written through (FUA); of the rest a disk may have
kept any part.
"""

import random
import shutil
import sqlite3
import struct
import subprocess
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edgefleet_agent.install.journal import Journal
from edgefleet_agent.install.slots import Slots

MODEL: Final = "digits"
SECTOR: Final = 512
MAGIC: Final = 0x6A736677736872
FLUSH, FUA, DISCARD = 1, 2, 4
_ENTRY: Final = struct.Struct("<QQQQ")


@dataclass(frozen=True)
class Write:
    """One write of the log. at: bytes from the start of the disk; is_safe: a flush followed, or it was written through."""

    at: int
    data: bytes
    is_safe: bool


@dataclass(frozen=True)
class Left:
    """What a cut left. problem: "" when all is well; phase: how far the device was; repaired: whether fsck had
    to do something, as to replay the journal."""

    problem: str
    phase: str = ""
    repaired: bool = False


def entries(log: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Return (flags, byte offset, data) of each whole entry. Raises ValueError for a log of another format."""
    if not log:
        return
    magic, version, _count, sector = struct.unpack_from("<QQQL", log)
    if magic == 0:  # written with the first flush
        sector = SECTOR
    elif (magic, version) != (MAGIC, 1):
        raise ValueError(f"no log of writes: {magic:#x}, version {version}")
    here = sector
    while here + sector <= len(log):
        at, count, flags, _ = _ENTRY.unpack_from(log, here)
        here += sector
        length = 0 if flags & DISCARD else count * sector
        if (not count and not flags) or here + length > len(log):
            return  # the superblock counts entries at times only; a cut may leave half an entry
        yield flags, at * sector, log[here : here + length]
        here += length


def writes(log: bytes, part: float = 1.0) -> list[Write]:
    """Return the writes of a log in order, as if the power had been cut after that part of the entries."""
    found = list(entries(log))
    found = found[: round(part * len(found))]
    last_flush = max((number for number, (flags, _, _) in enumerate(found) if flags & FLUSH), default=-1)
    return [
        Write(at, data, number < last_flush or bool(flags & FUA))
        for number, (flags, at, data) in enumerate(found)
        if data
    ]


def cut(base: Path, log: Path, image: Path, draw: random.Random, part: float = 1.0) -> tuple[int, int]:
    """Write `image`: what a disk that held `base` may hold after that part of the log.

    Return how many writes were not flushed, and how many are lost.
    """
    keeps = draw.choice((0.0, 0.5, 1.0))
    shutil.copyfile(base, image)
    loose = lost = 0
    with image.open("r+b") as disk:
        for one in writes(log.read_bytes(), part):
            loose += not one.is_safe
            if one.is_safe or draw.random() < keeps:
                disk.seek(one.at)
                disk.write(one.data)
            else:
                lost += 1
    return loose, lost


def inspect(image: Path, folder: Path, published: Collection[str]) -> Left:
    """Check a copy of the disk: fsck mends it, the record is readable, each slot that it names holds the published bytes."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    copy = folder / "copy.img"
    shutil.copyfile(image, copy)
    checked = subprocess.run(["e2fsck", "-f", "-p", str(copy)], capture_output=True, text=True, check=False)
    if checked.returncode not in {0, 1}:
        return Left(f"fsck ended with {checked.returncode}: {checked.stdout[-500:]}")
    subprocess.run(["debugfs", "-R", f"rdump /agent {folder}", str(copy)], capture_output=True, check=True)
    copy.unlink()
    state = folder / "agent"
    record = Journal(state / "models").read(MODEL)
    if record is None or record.active is None:
        return Left(f"no version is recorded: {record}")
    slots = Slots(state / "models")
    for ref in (record.active, record.previous):
        if ref is not None and not (ref.sha256 in published and slots.rehash(MODEL, ref.slot, ref.sha256)):
            return Left(f"slot {ref.slot} does not hold {ref.target}", record.phase)
    if queue := _queue_problem(state / "queue" / "q.db"):
        return Left(f"the queue is broken: {queue}", record.phase)
    return Left("", record.phase, checked.returncode == 1)


def _queue_problem(path: Path) -> str:
    if not path.exists():
        return ""
    try:
        with sqlite3.connect(path) as database:
            (said,) = database.execute("PRAGMA integrity_check").fetchone()
    except sqlite3.Error as error:
        return str(error)
    return "" if said == "ok" else str(said)
