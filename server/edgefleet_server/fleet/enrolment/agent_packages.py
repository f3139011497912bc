"""The packages of the agent that an operator has added to the server's data folder (`edgectl server agent-packages add`).

Only regular files of these two names are seen, so nothing else of the folder can be asked for.
"""

import re
import threading
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from edgefleet_protocol.digest import Sha256, sha256_hex

MAX_PACKAGE_BYTES: Final = 16 * 1024 * 1024


class PackageKind(StrEnum):
    """How the agent is packed."""

    WHEEL = "wheel"
    DEB = "deb"


_NAMES: Final = {
    PackageKind.WHEEL: re.compile(r"edgefleet_agent-[0-9][0-9A-Za-z.+!]{0,63}-py3-none-any\.whl"),
    PackageKind.DEB: re.compile(r"edgefleet-agent_[0-9][0-9A-Za-z.+~]{0,63}_all\.deb"),
}


@dataclass(frozen=True, slots=True)
class AgentPackage:
    """One package."""

    name: str
    kind: PackageKind
    sha256: Sha256
    data: bytes


class AgentPackages:
    """Reads the folder. Thread-safe; calls block. What was read is kept until the file changes."""

    def __init__(self, folder: Path) -> None:
        """Take the folder, which may be missing."""
        self._folder = folder
        self._known: dict[PackageKind, tuple[tuple[str, int, int], AgentPackage]] = {}
        self._lock = threading.Lock()

    def find(self, kind: PackageKind) -> AgentPackage | None:
        """Return the package of a kind, the last one added where the folder holds several; None when there is none."""
        found = []
        for path in self._folder.iterdir() if self._folder.is_dir() else ():
            if _NAMES[kind].fullmatch(path.name) and path.is_file() and not path.is_symlink():
                facts = path.stat()
                found.append((facts.st_mtime_ns, facts.st_size, path))
        if not found or max(found)[1] > MAX_PACKAGE_BYTES:
            return None
        changed_ns, size, path = max(found)
        with self._lock:
            key = (path.name, changed_ns, size)
            known = self._known.get(kind)
            if known is None or known[0] != key:
                data = path.read_bytes()
                known = self._known[kind] = (key, AgentPackage(path.name, kind, sha256_hex(data), data))
            return known[1]

    def all(self) -> list[AgentPackage]:
        """Return what there is, a package of a kind."""
        return [package for kind in PackageKind if (package := self.find(kind)) is not None]
