"""Which roles are with others for good, kept in the key folder: teams that sign their models, and holders of `targets`.

The signing process notes a role before the keys that the server had of it are destroyed, and makes, takes in and uses no key for it
from then on. Nothing that can be asked on the socket takes that back. A file that is damaged stops all of them.
Replicas on one machine may each have a signing process with the same folder, so the file is read each time.
"""

import json
from pathlib import Path
from typing import Final

from edgefleet_server.signing.errors import KeysUnreadableError
from edgefleet_server.signing.keys.key_files import folder_lock, replace_private

FILE: Final = "handed-over.json"


class Handovers:
    """The roles that this key folder signs no more. Not thread-safe."""

    def __init__(self, folder: Path) -> None:
        """Remember the folder; the file is read when it is asked for."""
        self._folder = folder
        self._path = folder / FILE
        self._known: frozenset[str] = frozenset()

    def roles(self) -> frozenset[str]:
        """Return the roles; one that was seen once stays while the process lives. Raises KeysUnreadableError, OSError."""
        try:
            found = json.loads(self._path.read_bytes())
            roles = found["roles"]
            if not isinstance(roles, list) or not all(isinstance(one, str) for one in roles):
                raise TypeError("no list of roles")  # damage of one kind or another
        except FileNotFoundError:
            return self._known
        except (ValueError, KeyError, TypeError) as error:
            raise KeysUnreadableError(
                f"{FILE} in the key folder cannot be read, so it is not known which models teams sign: {error}",
                next_step="restore it from the backup of the key folder",
            ) from error
        self._known |= frozenset(roles)
        return self._known

    def note(self, role: str) -> None:
        """Note that a role is with others; on the disk when this returns. Raises KeysUnreadableError, OSError; then nothing is noted."""
        with folder_lock(self._folder):
            roles = self.roles()
            if role in roles and self._path.exists():
                return
            data = json.dumps({"roles": sorted({*roles, role})}, indent=1) + "\n"
            replace_private(self._path, data.encode())
            self._known = roles | {role}
