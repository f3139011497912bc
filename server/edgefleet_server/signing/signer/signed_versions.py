"""The versions of metadata that were signed, kept in the key folder: no backup of the database and no thief brings an older one back.

Replicas on one machine may each have a signing process with the same folder, so the file is read again whenever another one wrote it.
"""

import json
import logging
import os
from pathlib import Path
from typing import Final

from edgefleet_server.signing.keys.key_files import folder_lock

FILE: Final = "signed.json"
_log = logging.getLogger(__name__)


class SignedVersions:
    """The newest version of each role that was signed with the keys of one folder. Not thread-safe."""

    def __init__(self, folder: Path) -> None:
        """Remember the folder; the file is read when it is asked for."""
        self._folder = folder
        self._path = folder / FILE
        self._versions: dict[str, int] = {}
        self._seen: tuple[int, int, int] | None = None

    def last(self, role: str) -> int:
        """Return the newest version of a role, 0 for none. Raises OSError."""
        self._read()
        return self._versions.get(role, 0)

    def note(self, role: str, version: int) -> None:
        """Note a version that is about to be signed, unless a newer one was. Raises OSError; then nothing is noted.

        Written at once, but not waited for: a power cut may lose the newest.
        """
        if self.last(role) >= version:
            return
        with folder_lock(self._folder):
            self._read()
            versions = {**self._versions, role: max(version, self._versions.get(role, 0))}
            fresh = self._path.with_name(f"{FILE}.{os.getpid()}.new")
            fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
            with os.fdopen(fd, "w", encoding="utf-8") as out:
                json.dump(versions, out)
            fresh.replace(self._path)
            self._read()

    def _read(self) -> None:
        """Read the file if it is another one. One that is damaged counts as what was read before, which the log says."""
        try:
            found = self._path.stat()
            mark = (found.st_ino, found.st_mtime_ns, found.st_size)
            if mark == self._seen:
                return
            versions = json.loads(self._path.read_bytes())
            known = {str(role): int(version) for role, version in versions.items()}
        except FileNotFoundError:
            return
        except (ValueError, TypeError, AttributeError) as error:
            _log.warning("the file of signed versions cannot be read, and begins again", extra={"error": repr(error)})
            self._seen = mark
            return
        self._seen = mark
        self._versions = {
            role: max(known.get(role, 0), self._versions.get(role, 0)) for role in {*known, *self._versions}
        }
