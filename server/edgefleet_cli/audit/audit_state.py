"""What this machine has seen of a server's audit trail: the root of trust it pinned, and the last head that held.

Kept next to the saved contexts, in `audit/`, one folder a server. A server that shows an older or another trail later is found out by it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from edgefleet_cli.core.contexts import config_path
from edgefleet_cli.core.errors import UnreadableFileError
from edgefleet_cli.core.files import write_private
from edgefleet_terms.audit_chain.audit_head import AuditHead, BadHeadError, head_bytes, head_of

_HEAD_FILE = "head.json"
_ROOT_FILE = "root.json"
_TUF_FOLDER = "tuf"


@dataclass(frozen=True)
class AuditState:
    """The folder of one server. Nothing is written before something was seen."""

    folder: Path

    @property
    def tuf_folder(self) -> Path:
        """Where the TUF client keeps what it trusts."""
        return self.folder / _TUF_FOLDER

    def root(self) -> bytes | None:
        """Return the root of trust that was pinned, None before the first look. Raises UnreadableFileError."""
        return self._read(_ROOT_FILE)

    def pin_root(self, root: bytes) -> None:
        """Trust this root from now on. Raises UnreadableFileError."""
        self._write(_ROOT_FILE, root)

    def head(self) -> AuditHead | None:
        """Return the last head that held, None before the first. Raises UnreadableFileError."""
        data = self._read(_HEAD_FILE)
        if data is None:
            return None
        try:
            return head_of(data)
        except BadHeadError as error:
            raise UnreadableFileError(
                f"{self.folder / _HEAD_FILE} is not a head of an audit trail",
                why=str(error),
                next_step="put it aside; the next `edgectl audit verify` then compares with nothing older",
            ) from error

    def put_head(self, head: AuditHead) -> None:
        """Remember a head that held, unless a larger one is known. Raises UnreadableFileError."""
        known = self.head()
        if known is None or head.size > known.size:
            self._write(_HEAD_FILE, head_bytes(head))

    def _read(self, name: str) -> bytes | None:
        try:
            return (self.folder / name).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _unusable(self.folder / name, error) from error

    def _write(self, name: str, data: bytes) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_private(self.folder / name, data)
        except OSError as error:
            raise _unusable(self.folder / name, error) from error


def state_of(server: str) -> AuditState:
    """Return the state of the server at a base URL."""
    host = urlsplit(server).hostname or "server"
    digest = hashlib.sha256(server.encode()).hexdigest()[:12]
    return AuditState(config_path().parent / "audit" / f"{host.replace(':', '-')}-{digest}")


def roots_seen() -> dict[str, str]:
    """Return the roots of trust that this machine pinned: SHA-256 → the folder's name."""
    found = {}
    for file in (config_path().parent / "audit").glob(f"*/{_ROOT_FILE}"):
        try:
            found[hashlib.sha256(file.read_bytes()).hexdigest()] = file.parent.name
        except OSError:
            continue
    return found


def _unusable(path: Path, error: OSError) -> UnreadableFileError:
    return UnreadableFileError(
        f"cannot use {path}", why=error.strerror or str(error), next_step="check its owner and mode"
    )
