"""The packages of the agent that this server hands out: one of each kind, the one added last (ADR 0168).

Their digests are in the database, their bytes in the blob store, so every host hands out the same. What the store gives is compared with
the digest first: who can write to a bucket cannot plant an agent.
"""

import logging
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Final, Protocol

from edgefleet_protocol.clock import Clock
from edgefleet_protocol.digest import Sha256
from edgefleet_protocol.errors import EdgefleetError
from edgefleet_server.db.database import Database
from edgefleet_server.fleet.enrolment import store
from edgefleet_server.fleet.tables import FleetAgentPackage
from edgefleet_server.registry.errors import BlobUnknownError

MAX_PACKAGE_BYTES: Final = 16 * 1024 * 1024
ADD: Final = "`./dev dist` in a clone makes the packages; on a server's machine: edgectl server agent-packages add dist"
_log = logging.getLogger(__name__)


class PackageKind(StrEnum):
    """How the agent is packed."""

    WHEEL = "wheel"
    DEB = "deb"


KINDS: Final = frozenset(PackageKind)
"""Those that this version knows: a later one may know more."""
NAMES: Final[Mapping[PackageKind, re.Pattern[str]]] = {
    PackageKind.WHEEL: re.compile(r"edgefleet_agent-[0-9][0-9A-Za-z.+!]{0,63}-py3-none-any\.whl"),
    PackageKind.DEB: re.compile(r"edgefleet-agent_[0-9][0-9A-Za-z.+~]{0,63}_all\.deb"),
}


class BadAgentPackageError(EdgefleetError):
    """A file is no package of the agent that this server would hand out."""

    code = "agent.package_bad"


class AgentPackageDamagedError(EdgefleetError):
    """The blob store does not have the bytes of a package of the agent that the database names."""

    code = "agent.package_damaged"


class Blobs(Protocol):
    """What packages need of the registry."""

    def put_blob_bytes(self, data: bytes) -> Sha256:
        """Store bytes as a blob. Joins the caller's transaction."""
        ...

    def read_blob(self, sha256: Sha256, max_bytes: int) -> bytes:
        """Return a whole blob, its digest checked. Raises BlobUnknownError, BlobStoreError."""
        ...


@dataclass(frozen=True, slots=True)
class AgentPackage:
    """One package, without its bytes."""

    name: str
    kind: PackageKind
    sha256: Sha256
    length: int
    added_at: datetime


class AgentPackages:
    """Keeps the packages. Thread-safe; calls block. Bytes that were checked once are kept in memory."""

    def __init__(self, db: Database, blobs: Blobs, clock: Clock) -> None:
        """Wire the parts."""
        self._db = db
        self._blobs = blobs
        self._clock = clock
        self._checked: dict[PackageKind, tuple[Sha256, bytes]] = {}
        self._lock = threading.Lock()

    def all(self) -> list[AgentPackage]:
        """Return what there is, at most one package of a kind, the wheel first."""
        with self._db.read() as session:
            found = {row.kind: _package(row) for row in store.agent_packages(session) if row.kind in KINDS}
        return [found[kind] for kind in PackageKind if kind in found]

    def find(self, kind: PackageKind) -> AgentPackage | None:
        """Return the package of a kind, None when there is none."""
        return next((package for package in self.all() if package.kind is kind), None)

    def digests(self) -> set[Sha256]:
        """Return the digests of all packages: blobs that no release may take with it."""
        return {package.sha256 for package in self.all()}

    def read(self, package: AgentPackage) -> bytes:
        """Return the bytes of a package. Raises AgentPackageDamagedError, BlobStoreError."""
        with self._lock:
            known = self._checked.get(package.kind)
            if known is not None and known[0] == package.sha256:
                return known[1]
        data = self._read_checked(package)
        with self._lock:
            self._checked[package.kind] = package.sha256, data
        return data

    def problem(self, package: AgentPackage) -> str:
        """Return why a package cannot be handed out, "" when it can: its bytes are read and checked now."""
        try:
            self._read_checked(package)
        except EdgefleetError as error:
            return str(error)
        return ""

    def add(self, name: str, data: bytes) -> AgentPackage:
        """Hand out this package from now on, instead of the one of its kind. Raises BadAgentPackageError, BlobStoreError."""
        return self._put(name, data, self._clock.now(), replaces=True)

    def take_over(self, folder: Path) -> list[AgentPackage]:
        """Take in the folder of packages of an earlier version, and remove from it what was taken; return what is handed out of it now.

        The newest file counts, unless a package of its kind was added later. Several hosts may do this at once, each with its folder,
        in any order. Raises OSError, BlobStoreError; then what is left is taken the next time.
        """
        taken = []
        for kind, pattern in NAMES.items():
            found = sorted(_files(folder, pattern), key=lambda path: path.stat().st_mtime_ns)
            if not found:
                continue
            changed = datetime.fromtimestamp(found[-1].stat().st_mtime, UTC)
            package = self._put(found[-1].name, found[-1].read_bytes(), min(changed, self._clock.now()), replaces=False)
            taken += [package] if self.find(kind) == package else []
            for path in found:
                path.unlink(missing_ok=True)
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
        return taken

    def _put(self, name: str, data: bytes, added_at: datetime, *, replaces: bool) -> AgentPackage:
        kind = kind_of(name)
        if len(data) > MAX_PACKAGE_BYTES:
            raise BadAgentPackageError(
                f"{name} has {len(data):,} bytes; a package of the agent has at most {MAX_PACKAGE_BYTES:,}",
                next_step="build it again: `./dev dist` in a clone makes the packages in dist/",
            )
        with self._db.session() as session:
            # in the transaction that names it: no collection of garbage comes between
            sha256 = self._blobs.put_blob_bytes(data)
            package = AgentPackage(name, kind, sha256, len(data), added_at)
            store.put_agent_package(session, _row(package), replaces=replaces)
        return package

    def _read_checked(self, package: AgentPackage) -> bytes:
        try:
            return self._blobs.read_blob(package.sha256, MAX_PACKAGE_BYTES)
        except BlobUnknownError as error:
            raise AgentPackageDamagedError(
                f"the blob store does not have the bytes of {package.name} with SHA-256 {package.sha256[:12]}…",
                next_step="add it again, and look who can write to the store: edgectl server agent-packages add dist",
            ) from error


def take_over_or_warn(packages: AgentPackages, folder: Path) -> None:
    """Take in an old folder when a server starts; what goes wrong is logged, and tried again at the next start."""
    try:
        for package in packages.take_over(folder):
            _log.info("package of the agent taken into the database", extra={"package": package.name})
    except (OSError, EdgefleetError) as error:
        _log.warning("packages of the agent stay in the data folder", extra={"reason": str(error)})


def kind_of(name: str) -> PackageKind:
    """Return what a file is by its name. Raises BadAgentPackageError."""
    for kind, pattern in NAMES.items():
        if pattern.fullmatch(name):
            return kind
    raise BadAgentPackageError(
        f"{name[:80]!r} is not the name of a package of the agent",
        next_step="build it again: `./dev dist` in a clone makes the packages in dist/",
    )


def _files(folder: Path, pattern: re.Pattern[str]) -> list[Path]:
    """Return the regular files of one kind that may be handed out."""
    return [
        path
        for path in (folder.iterdir() if folder.is_dir() else ())
        if pattern.fullmatch(path.name) and path.is_file() and not path.is_symlink()
        if path.stat().st_size <= MAX_PACKAGE_BYTES
    ]


def _package(row: FleetAgentPackage) -> AgentPackage:
    return AgentPackage(row.name, PackageKind(row.kind), Sha256(row.sha256), row.length, row.added_at)


def _row(package: AgentPackage) -> dict[str, object]:
    return {
        "kind": package.kind.value,
        "name": package.name,
        "sha256": package.sha256,
        "length": package.length,
        "added_at": package.added_at,
    }
