"""Writes a bundle into a slot leaf by leaf: `bundle.part` and, next to it, `bundle.bits` with what is there.

1. Leaves are written at their offsets after their hash was right; data is fsynced every 8 MiB and at the end.
2. The bitmap is replaced after each MiB without fsync: a killed process loses at most that. After a power cut it may name leaves
   whose bytes never reached the disk; `check_leaves` finds them when the whole does not add up.
3. `seal` is the only way to a valid slot: fsync, 0444, rename, folder fsync, then the record.
4. Without space left the part is removed (`discard`): the device may need it more than the next try does.
Every OSError leaves as SlotWriteError, with what to do.
"""

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path

import msgspec

from edgefleet_agent.core.durable import decode_record, encode_record, fsync_dir, read_record, write_file, write_record
from edgefleet_agent.errors import StateFileError
from edgefleet_agent.install.records import SlotInfo
from edgefleet_agent.install.slots import BITS_FILE, BUNDLE_FILE, INFO_FILE, PART_FILE
from edgefleet_agent.verifier.errors import DiskFullError, SlotWriteError
from edgefleet_protocol.blocks import LEAF_BYTES, check_leaf, leaf_count

SYNC_BYTES = 8 * 1024 * 1024
BITS_EVERY_LEAVES = 32


class LeafBits(msgspec.Struct, frozen=True, kw_only=True):
    """Which leaves of which blob are in `bundle.part`: bit i of byte i // 8."""

    v: int = 1
    sha256: str
    length: int
    bits: bytes


class SlotWriter:
    """One slot folder while a bundle is brought into it."""

    def __init__(self, folder: Path, sha256: str, length: int) -> None:
        self._folder = folder
        self._sha256 = sha256
        self._length = length
        self._fd = -1
        self._unsynced = 0
        self._since_bits = 0
        self._have: set[int] = set()

    def existing(self) -> SlotInfo | None:
        """Return the record of this very bundle, already complete in the slot and hashed again just now; else None."""
        try:
            info = read_record(SlotInfo, self._folder / INFO_FILE)
            if info is None or info.sha256 != self._sha256 or info.length != self._length:
                return None
            with self.bundle() as file:
                return info if _digest(file) == self._sha256 else None
        except (StateFileError, OSError):
            return None

    def open(self) -> set[int]:
        """Make the slot ours and return the leaves that are there already. Raises SlotWriteError."""
        with _disk_errors("open"):
            self._have = self._resumable()
            for name in (INFO_FILE, BUNDLE_FILE):
                (self._folder / name).unlink(missing_ok=True)
            if not self._have:
                for name in (PART_FILE, BITS_FILE):
                    (self._folder / name).unlink(missing_ok=True)
            fsync_dir(self._folder)
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            self._fd = os.open(self._folder / PART_FILE, flags, 0o600)
            # the whole size now: a full disk is found before a byte is transferred
            os.posix_fallocate(self._fd, 0, self._length)
            os.ftruncate(self._fd, self._length)
        return set(self._have)

    def write(self, leaf: int, data: bytes) -> None:
        """Write one leaf whose hash was checked. Raises SlotWriteError."""
        with _disk_errors("write"):
            os.pwrite(self._fd, data, leaf * LEAF_BYTES)
            self._have.add(leaf)
            self._unsynced += len(data)
            self._since_bits += 1
            if self._unsynced >= SYNC_BYTES:
                os.fdatasync(self._fd)
                self._unsynced = 0
            if self._since_bits >= BITS_EVERY_LEAVES:
                self._save_bits()

    def digest(self) -> str:
        """Return the sha256 of the whole file, on the disk by now. Raises SlotWriteError."""
        with _disk_errors("read"):
            os.fsync(self._fd)
            self._save_bits()
            with self.reader() as file:
                return _digest(file)

    def check_leaves(self, index: bytes) -> set[int]:
        """Return the leaves whose bytes in the file do not have the hash of the index, and forget them. Raises SlotWriteError."""
        with _disk_errors("read"):
            bad = {
                leaf
                for leaf in range(leaf_count(self._length))
                if not check_leaf(index, leaf, os.pread(self._fd, self._leaf_bytes(leaf), leaf * LEAF_BYTES))
            }
            self._have -= bad
            self._save_bits()
        return bad

    def reader(self) -> BufferedReader:
        """Return a reader of the file as written so far; closing it leaves the slot open."""
        return os.fdopen(os.dup(self._fd), "rb")

    def seal(self, info: SlotInfo) -> None:
        """Make the slot valid. Everything in `info` was verified. Raises SlotWriteError."""
        with _disk_errors("seal"):
            os.fsync(self._fd)
            os.fchmod(self._fd, 0o444)
            os.close(self._fd)
            self._fd = -1
            (self._folder / PART_FILE).rename(self._folder / BUNDLE_FILE)
            fsync_dir(self._folder)
            write_record(self._folder / INFO_FILE, info)
            (self._folder / BITS_FILE).unlink(missing_ok=True)

    def bundle(self) -> BufferedReader:
        """Return the bundle of a valid slot, to be closed. Raises OSError."""
        return (self._folder / BUNDLE_FILE).open("rb")

    def note(self, info: SlotInfo) -> SlotInfo:
        """Write the record of a valid slot again; return it. Raises SlotWriteError."""
        with _disk_errors("note"):
            write_record(self._folder / INFO_FILE, info)
        return info

    def discard(self) -> None:
        """Remove what was written: the bytes were refused, or there is no space for them. Raises SlotWriteError."""
        with _disk_errors("remove"):
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1
            for name in (INFO_FILE, BUNDLE_FILE, PART_FILE, BITS_FILE):
                (self._folder / name).unlink(missing_ok=True)
            fsync_dir(self._folder)

    def close(self) -> None:
        """Close the file; what is there stays for the next try."""
        if self._fd >= 0:
            with suppress(OSError):
                self._save_bits()
            os.close(self._fd)
            self._fd = -1

    def _leaf_bytes(self, leaf: int) -> int:
        return min(LEAF_BYTES, self._length - leaf * LEAF_BYTES)

    def _resumable(self) -> set[int]:
        try:
            bits = decode_record(LeafBits, (self._folder / BITS_FILE).read_bytes(), name=BITS_FILE)
            size = (self._folder / PART_FILE).stat().st_size
        except (StateFileError, OSError):
            return set()
        if bits.sha256 != self._sha256 or bits.length != self._length or size != self._length:
            return set()
        return {
            i for i in range(leaf_count(self._length)) if i // 8 < len(bits.bits) and bits.bits[i // 8] >> i % 8 & 1
        }

    def _save_bits(self) -> None:
        bits = bytearray(-(-leaf_count(self._length) // 8))
        for leaf in self._have:
            bits[leaf // 8] |= 1 << leaf % 8
        record = LeafBits(sha256=self._sha256, length=self._length, bits=bytes(bits))
        write_file(self._folder / BITS_FILE, encode_record(record), durable=False)
        self._since_bits = 0


def _digest(file: BufferedReader) -> str:
    file.seek(0)
    return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _disk_errors(act: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFullError(
                f"no space left for the bundle ({act}): {error.strerror}", next_step="free space on the device"
            ) from error
        raise SlotWriteError(
            f"the slot cannot be written ({act}): {error.strerror}",
            next_step="check the device's storage and its mount options",
        ) from error
