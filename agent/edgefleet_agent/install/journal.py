"""Write-ahead journal of a model: `current.msgpack`, replaced durably before the act it announces.

1. `write` returns only when the record is on the disk: file fsynced, renamed, folder fsynced.
2. `read` of a torn record is None and a warning: the model is then installed again, with what its slot still holds.
3. The symlink `active` is derived from the record and repaired from it at start; nothing ever reads it for a decision.
"""

import logging
import shutil
from pathlib import Path

from edgefleet_agent.core.durable import fsync_dir, read_record, write_record
from edgefleet_agent.errors import StateFileError
from edgefleet_agent.install.machine import SLOTS
from edgefleet_agent.install.records import ModelRecord

RECORD_FILE = "current.msgpack"
ACTIVE_LINK = "active"

log = logging.getLogger(__name__)


class Journal:
    """The records of all models under one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def models(self) -> list[str]:
        """Return the names of the models that have a folder, sorted."""
        if not self._folder.is_dir():
            return []
        return sorted(entry.name for entry in self._folder.iterdir() if entry.is_dir())

    def read(self, model: str) -> ModelRecord | None:
        """Return the model's record; None when there is none or it is torn. Raises OSError."""
        try:
            return read_record(ModelRecord, self._folder / model / RECORD_FILE)
        except StateFileError as error:
            log.warning("model record unreadable", extra={"model": model, "reason": error.message})
            return None

    def write(self, record: ModelRecord) -> None:
        """Put the record on the disk, then the derived symlink. Blocks on the disk. Raises OSError."""
        folder = self._folder / record.model
        if not folder.is_dir():
            folder.mkdir(parents=True, exist_ok=True)
            fsync_dir(self._folder)
        write_record(folder / RECORD_FILE, record)
        self._derive_link(folder, record.active.slot if record.active else None)

    def is_bare(self, model: str, *, keep_record: bool) -> bool:
        """Say whether nothing is left of the model on the disk, or only its record where that is kept."""
        folder = self._folder / model
        kept = {RECORD_FILE} if keep_record else set()
        return not folder.is_dir() or (bool(kept) and {entry.name for entry in folder.iterdir()} <= kept)

    def remove(self, model: str, *, keep_record: bool) -> None:
        """Remove the slots of a model, and its record unless digests in it are still to be refused. Raises OSError.

        The slots go first: until nothing is left the record says that nothing serves, so a cut in the middle is gone on with.
        """
        folder = self._folder / model
        (folder / ACTIVE_LINK).unlink(missing_ok=True)
        for slot in SLOTS:
            if (folder / slot).is_dir():
                shutil.rmtree(folder / slot)
        if not folder.is_dir():
            return
        fsync_dir(folder)
        if keep_record:
            return
        for entry in folder.iterdir():
            entry.unlink()
        folder.rmdir()
        fsync_dir(self._folder)

    @staticmethod
    def _derive_link(folder: Path, slot: str | None) -> None:
        link = folder / ACTIVE_LINK
        if slot is None:
            link.unlink(missing_ok=True)
            return
        if link.is_symlink() and str(link.readlink()) == slot:
            return
        temporary = folder / f".{ACTIVE_LINK}.tmp"
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(slot)
        temporary.replace(link)
