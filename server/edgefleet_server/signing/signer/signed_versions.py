"""The versions of metadata that were signed, kept in the key folder: no backup of the database and no thief brings an older one back."""

import json
import logging
import os
from pathlib import Path
from typing import Final

FILE: Final = "signed.json"
_log = logging.getLogger(__name__)


class SignedVersions:
    """The newest version of each role that was signed with the keys of one folder. Not thread-safe."""

    def __init__(self, folder: Path) -> None:
        """Read the file. One that is damaged counts as none, which the log says: the database's own rule still holds."""
        self._path = folder / FILE
        self._versions: dict[str, int] = {}
        try:
            found = json.loads(self._path.read_bytes())
            self._versions = {str(role): int(version) for role, version in found.items()}
        except FileNotFoundError:
            return
        except (ValueError, TypeError, AttributeError) as error:
            _log.warning("the file of signed versions cannot be read, and begins again", extra={"error": repr(error)})

    def last(self, role: str) -> int:
        """Return the newest version of a role, 0 for none."""
        return self._versions.get(role, 0)

    def note(self, role: str, version: int) -> None:
        """Note a version that is about to be signed. Written at once, but not waited for: a power cut may lose the newest."""
        if self._versions.get(role) == version:
            return
        self._versions[role] = version
        fresh = self._path.with_name(f"{FILE}.{os.getpid()}.new")
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(fd, "w", encoding="utf-8") as out:
            json.dump(self._versions, out)
        fresh.replace(self._path)
