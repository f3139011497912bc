"""The state files of drift: `drift/<model>.<first 16 hex of the digest>.watch`, and `.reference` for what a device learned itself.

Both go with the version: a file of a digest that no record of a model names is removed. A damaged file is as none: what it held is
learned again.
"""

import logging
from collections.abc import Collection
from pathlib import Path

from edgefleet_agent.core.durable import read_record, write_file, write_record
from edgefleet_agent.drift.model_drift import ModelDrift
from edgefleet_agent.errors import StateFileError
from edgefleet_agent.paths import learned_reference

WATCH = ".watch"

log = logging.getLogger(__name__)


class DriftFiles:
    """The files of all models in one folder, made when something is written."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, model: str, sha256: str) -> ModelDrift | None:
        """Return what is known of a digest, None without a usable file."""
        path = self._watch(model, sha256)
        try:
            found = read_record(ModelDrift, path)
        except (StateFileError, OSError) as error:
            log.warning("drift state unreadable", extra={"model": model, "reason": str(error)})
            return None
        return found if found is not None and (found.model, found.sha256) == (model, sha256) else None

    def write(self, state: ModelDrift) -> None:
        """Keep a state. Blocks on the disk. A failure is logged: what is in memory goes on."""
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            write_record(self._watch(state.model, state.sha256), state)
        except OSError as error:
            log.warning("drift state not written", extra={"model": state.model, "reason": str(error)})

    def write_reference(self, model: str, sha256: str, body: bytes) -> bool:
        """Keep what a worker learned for the next one; False when that cannot be done."""
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            write_file(learned_reference(self._folder, model, sha256), body)
        except OSError as error:
            log.warning("learned reference not written", extra={"model": model, "reason": str(error)})
            return False
        return True

    def tidy(self, kept: Collection[str]) -> None:
        """Remove what is of no digest in `kept`."""
        if not self._folder.is_dir():
            return
        short = {sha256[:16] for sha256 in kept}
        for path in self._folder.iterdir():
            if path.stem.rpartition(".")[2] not in short:
                path.unlink(missing_ok=True)

    def _watch(self, model: str, sha256: str) -> Path:
        return learned_reference(self._folder, model, sha256).with_suffix(WATCH)
