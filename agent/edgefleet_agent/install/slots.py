"""The two slots of a model: `models/<model>/{A,B}`, each with one bundle (0444) and what was verified about it.

1. A slot is valid when its `slot.msgpack` is whole, names the bundle's digest, and the file has that length.
2. `rehash` reads the whole file: at each start of agentd, before a rollback, and again by the worker on the descriptor it was handed.
3. Only the install child writes here; agentd opens bundles read-only.
"""

import hashlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from edgefleet_agent.core.durable import fsync_dir, read_record
from edgefleet_agent.errors import StateFileError
from edgefleet_agent.install.machine import SLOTS
from edgefleet_agent.install.records import ModelRecord, SlotInfo, SlotRef, Tally

BUNDLE_FILE = "bundle"
PART_FILE = "bundle.part"
BITS_FILE = "bundle.bits"
INFO_FILE = "slot.msgpack"

log = logging.getLogger(__name__)


class Slots:
    """All slots under one models folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def folder(self, model: str, slot: str) -> Path:
        """Return the folder of one slot."""
        assert slot in SLOTS, slot
        return self._folder / model / slot

    def prepare(self, model: str, slot: str) -> Path:
        """Return the slot's folder, made durably if missing. Raises OSError."""
        folder = self.folder(model, slot)
        if not folder.is_dir():
            folder.mkdir(parents=True, exist_ok=True)
            fsync_dir(folder.parent)
            fsync_dir(folder.parent.parent)
        return folder

    def info(self, model: str, slot: str) -> SlotInfo | None:
        """Return what is in a slot; None when it is empty, torn or half written. Does not hash the file."""
        folder = self.folder(model, slot)
        try:
            info = read_record(SlotInfo, folder / INFO_FILE)
            if info is None or (folder / BUNDLE_FILE).stat().st_size != info.length:
                return None
        except (StateFileError, OSError) as error:
            log.warning("slot unreadable", extra={"model": model, "slot": slot, "reason": str(error)})
            return None
        return info

    def filled(self) -> Iterator[tuple[str, SlotInfo]]:
        """Yield model and contents of every slot that holds a whole bundle. Hashes no file."""
        if not self._folder.is_dir():
            return
        for model in sorted(one.name for one in self._folder.iterdir() if one.is_dir()):
            for slot in SLOTS:
                if (info := self.info(model, slot)) is not None:
                    yield model, info

    def rehash(self, model: str, slot: str, sha256: str) -> bool:
        """Say whether the slot's bundle still has this digest. Reads the whole file; False also when it cannot be read."""
        info = self.info(model, slot)
        if info is None or info.sha256 != sha256:
            return False
        try:
            with (self.folder(model, slot) / BUNDLE_FILE).open("rb", buffering=0) as file:
                return hashlib.file_digest(file, "sha256").hexdigest() == sha256
        except OSError as error:
            log.warning("slot unreadable", extra={"model": model, "slot": slot, "reason": str(error)})
            return False

    def open(self, model: str, slot: str) -> int:
        """Return a read-only descriptor of the slot's bundle. The caller closes it. Raises OSError."""
        return os.open(self.folder(model, slot) / BUNDLE_FILE, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)

    def model_key(self, model: str, slot: str) -> bytes:
        """Return the key of a slot's sealed bundle as it came, b"" where there is none."""
        info = self.info(model, slot)
        return info.model_key if info is not None else b""

    def surviving(self, record: ModelRecord) -> ModelRecord:
        """Return the record with `active` and `previous` only where their bytes still are what they were.

        A bad active slot gives way to the previous one; with both bad nothing serves (safe mode). Reads both files whole.
        """
        active = self._intact(record.model, record.active)
        previous = self._intact(record.model, record.previous)
        if active == record.active and previous == record.previous:
            return record
        if active is None:
            active, previous = previous, None
        return msgspec.structs.replace(record, active=active, previous=previous)

    def with_sound_previous(self, record: ModelRecord) -> ModelRecord:
        """Return the record without a rollback target whose bytes are not what they were; the same one when all is well. Reads it whole."""
        if self._intact(record.model, record.previous) == record.previous:
            return record
        return msgspec.structs.replace(record, previous=None, before=Tally())

    def _intact(self, model: str, ref: SlotRef | None) -> SlotRef | None:
        if ref is None or self.rehash(model, ref.slot, ref.sha256):
            return ref
        log.error("slot does not hold what it should", extra={"model": model, "slot": ref.slot, "sha256": ref.sha256})
        return None
