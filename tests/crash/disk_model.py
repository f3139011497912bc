"""What a disk may hold after a power cut, by what was written to it: the points that the shim recorded, played into a small model.

Pessimistic as POSIX allows: fsync of a file keeps its bytes but not its name; fsync of a folder keeps the names in it; everything
else may be lost from some moment on. Of names, any prefix of what is not synced may be there; of bytes, all, none, the first half
of the writes, or zeros in their place, for all files alike or mixed.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

_HEAD = struct.Struct("=c3xIIIq")
FULL, NONE, HALF, ZEROS, MIXED = range(5)
VARIANTS = (FULL, NONE, HALF, ZEROS, MIXED)


@dataclass(frozen=True)
class Point:
    """One recorded point. op: its letter in `faults.c`; offset: also a size or the end of a range."""

    op: str
    path: str
    other: str
    offset: int
    data: bytes


def points_of(log: Path, root: Path) -> list[Point]:
    """Return what the shim wrote down, with paths relative to the state folder."""
    raw, at, found = log.read_bytes(), 0, []
    start = f"{root}/"
    while at < len(raw):
        op, path, other, size, offset = _HEAD.unpack_from(raw, at)
        at += _HEAD.size
        names = raw[at : at + path].decode(), raw[at + path : at + path + other].decode()
        parts = ["" if name == str(root) else name.removeprefix(start) for name in names]
        data = raw[at + path + other : at + path + other + size]
        at += path + other + size
        found.append(Point(op.decode(), parts[0], parts[1], offset, data))
    return found


@dataclass
class Inode:
    """Bytes of a file: those on the disk, and what was done to them since. link: target of a symbolic link, folder: a folder."""

    synced: bytes = b""
    pending: list[Point] = field(default_factory=list)
    link: str = ""
    folder: bool = False

    def content(self, variant: int) -> bytes:
        """Return the bytes that a power cut may leave."""
        if variant == NONE:
            return self.synced
        pending = self.pending[: -(-len(self.pending) // 2)] if variant == HALF else self.pending
        data = bytearray(self.synced)
        for point in pending:
            _apply(data, point, zeros=variant == ZEROS)
        return bytes(data)


def _apply(data: bytearray, point: Point, *, zeros: bool) -> None:
    match point.op:
        case "t":
            data.clear()
        case "f":
            del data[point.offset :]
            data.extend(bytes(point.offset - len(data)))
        case "a":
            data.extend(bytes(max(0, point.offset - len(data))))
        case "w":
            data.extend(bytes(max(0, point.offset - len(data))))
            data[point.offset : point.offset + len(point.data)] = bytes(len(point.data)) if zeros else point.data


Names = dict[str, Inode]
State = dict[str, Inode | bytes]
"""Names to bytes (files) or to inodes (links and folders)."""


class Disk:
    """Names and bytes, as they are and as they are certain to be."""

    def __init__(self) -> None:
        self.now: Names = {}
        self._certain: Names = {}
        self._pending: list[tuple[str, str, str, Inode | None]] = []

    def load(self, folder: Path) -> None:
        """Take what lies in a folder as certain."""
        for path in sorted(folder.rglob("*")):
            name = str(path.relative_to(folder))
            if path.is_symlink():
                self.now[name] = Inode(link=str(path.readlink()))
            elif path.is_dir():
                self.now[name] = Inode(folder=True)
            elif path.is_file():
                self.now[name] = Inode(path.read_bytes())
        self._certain = dict(self.now)

    def play(self, point: Point) -> None:
        """Let one point happen."""
        name = point.path
        known = self.now.get(name)
        match point.op:
            case "c" | "t":
                if known is None:
                    self._name("create", name, "", Inode())
                elif point.op == "t":
                    known.pending.append(point)
            case "w" | "f" | "a":
                if known is not None:  # else: of a file that is unlinked already
                    known.pending.append(point)
            case "s":
                self._sync(name, known)
            case "r":
                self._name("rename", name, point.other, None)
            case "u" | "d":
                self._name("remove", name, "", None)
            case "m":
                self._name("create", name, "", Inode(folder=True))
            case "y":
                self._name("create", name, "", Inode(link=point.other))

    def _name(self, act: str, name: str, other: str, inode: Inode | None) -> None:
        entry = (act, name, other, inode)
        self._pending.append(entry)
        _rename(self.now, entry)

    def _sync(self, name: str, inode: Inode | None) -> None:
        if name and inode is not None and not inode.folder:
            inode.synced, inode.pending = inode.content(FULL), []
            return
        left = []
        for entry in self._pending:
            if _parent(entry[1]) == name or (entry[2] and _parent(entry[2]) == name):
                _rename(self._certain, entry)
            else:
                left.append(entry)
        self._pending = left

    def states(self) -> Iterator[Cut]:
        """Yield what may be found after a cut now."""
        for taken in range(len(self._pending) + 1):
            is_dirty = any(inode.pending for inode in self.now.values())
            for variant in VARIANTS if is_dirty else (FULL,):
                yield Cut(self, taken, variant)

    def cut(self, taken: int, variant: int, rng: random.Random) -> State:
        """Return what is on the disk with so many of the uncertain names, and the bytes as the variant says."""
        names = dict(self._certain)
        for entry in self._pending[:taken]:
            _rename(names, entry)
        return _filled(names, variant, rng)

    def certain(self) -> State:
        """Return what is there whatever happens."""
        return self.cut(0, NONE, random.Random(0))


@dataclass(frozen=True)
class Cut:
    """One state that a power cut may leave, before the disk goes on. taken: uncertain names that are there."""

    disk: Disk
    taken: int
    variant: int

    def state(self, rng: random.Random) -> State:
        """Return it."""
        return self.disk.cut(self.taken, self.variant, rng)


def _filled(names: Names, variant: int, rng: random.Random) -> State:
    return {
        name: inode
        if inode.link or inode.folder
        else inode.content(rng.choice(VARIANTS[:4]) if variant == MIXED else variant)
        for name, inode in names.items()
    }


def _rename(names: Names, entry: tuple[str, str, str, Inode | None]) -> None:
    act, name, other, inode = entry
    if act == "create":
        assert inode is not None
        names.setdefault(name, inode)
    elif act == "remove":
        names.pop(name, None)
    elif name in names:
        names[other] = names.pop(name)


def _parent(name: str) -> str:
    return name.rpartition("/")[0]


def written_out(state: State, folder: Path) -> None:
    """Make a folder that holds a state. SQLite's `-shm` is left out: it is memory, not disk."""
    for name, what in sorted(state.items()):
        path = folder / name
        if not path.parent.is_dir() or name.endswith("-shm"):
            continue  # a name in a folder that was lost
        if isinstance(what, bytes):
            path.write_bytes(what)
        elif what.folder:
            path.mkdir(exist_ok=True)
        else:
            path.symlink_to(what.link)
