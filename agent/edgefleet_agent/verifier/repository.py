"""The TUF repository as the device sees it: ngclient, its metadata brought by agentd over MQTT, checked against our floor.

1. Bootstrap is the pinned root of the enrolment, never the cache.
2. A missing file is a 404 to ngclient ("no newer root"); any other failure is a download error.
3. ngclient has no public clock argument: the reference time of its trusted set is replaced right after construction
   (tested, python-tuf pinned below 8): with a clock at 1970 it took expired metadata.
4. What ngclient refuses because it has seen more is reported with it (`Seen`), so that a restored server can sign itself ahead.
5. `repo/head` is an unsigned hint: it answers "timestamp" and "no newer root" without a round trip. What it may do is delay.
   The caller tries again without it when anything fails.
"""

import logging
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import msgspec
from tuf.api import exceptions as tuf_errors
from tuf.api.metadata import (  # type: ignore[attr-defined]  # documented there, but not in __all__
    Metadata,
    Snapshot,
    TargetFile,
    Timestamp,
)
from tuf.ngclient.config import UpdaterConfig
from tuf.ngclient.fetcher import FetcherInterface
from tuf.ngclient.updater import Updater

from edgefleet_agent.install.records import ShutOut
from edgefleet_agent.verifier.errors import (
    ChildError,
    MetadataError,
    TargetMismatchError,
    TargetUnknownError,
    TransportError,
)
from edgefleet_protocol.desired import MAX_INT, Ref
from edgefleet_protocol.digest import parse_sha256
from edgefleet_protocol.errors import BadMessageError, EdgefleetError
from edgefleet_protocol.ids import parse_version
from edgefleet_protocol.messages import MAX_SEEN_ROLES, RepoHead, Seen, decode
from edgefleet_protocol.server_places import TARGET, Announcement, parse_announcement
from edgefleet_protocol.verify import PublicKey

BASE_URL = "ef://repository/"
DIRECTOR_ROLE = "director"
TIMESTAMP_FILE = "timestamp.json"
SNAPSHOT_SUFFIX = ".snapshot.json"
ROLLBACK = "tuf.rollback"
ROLES_MISSING = "tuf.roles_missing"
GENERAL = "tuf.repository"
BAD_CUSTOM = "tuf.bad_custom"
MODEL_PREFIX = "m."
_TOP_ROLES = ("root", "timestamp", "snapshot", "targets")
log = logging.getLogger(__name__)
MetaSource = Callable[[str, int], bytes | None]
"""(name, max bytes) → the file, None when the server has no such file. Raises ChildError."""


class Fetcher(FetcherInterface):
    """ngclient's port onto agentd."""

    def __init__(self, source: MetaSource, head: RepoHead | None) -> None:
        self._source = source
        self._head = head
        self._max_bytes = 0
        self.failure: ChildError | None = None
        self.snapshot = b""
        """The snapshot that was fetched last, not verified by itself."""

    def download_bytes(self, url: str, max_length: int) -> bytes:
        """Return the file, at most `max_length` bytes. Raises DownloadError, DownloadHTTPError."""
        self._max_bytes = max_length
        return super().download_bytes(url, max_length)

    def _fetch(self, url: str) -> Iterator[bytes]:
        name = url.removeprefix(BASE_URL)
        hinted = self._from_head(name)
        if hinted is not None:
            return iter([hinted])
        try:
            data = self._source(name, self._max_bytes)
        except ChildError as error:
            self.failure = error
            raise tuf_errors.DownloadError(error.message) from error
        if data is None:
            raise tuf_errors.DownloadHTTPError(f"the server has no {name}", 404)
        if name.endswith(SNAPSHOT_SUFFIX):
            self.snapshot = data
        return iter([data])

    def _from_head(self, name: str) -> bytes | None:
        if self._head is None:
            return None
        if name == TIMESTAMP_FILE:
            return self._head.timestamp
        version = name.removesuffix(".root.json")
        if version != name and version.isdecimal() and int(version) > self._head.root_version:
            raise tuf_errors.DownloadHTTPError("no newer root by repo/head", 404)
        return None


class Repository:
    """One refreshed view of the repository. Made again for each task: ngclient refreshes once in its life."""

    def __init__(self, folder: Path, root: bytes, source: MetaSource, head: RepoHead | None, now: datetime) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._fetcher = Fetcher(source, head)
        with _TufErrors(self._fetcher, lambda _code: None):
            self._updater = Updater(
                str(folder),
                BASE_URL,
                fetcher=self._fetcher,
                config=UpdaterConfig(max_delegations=8),
                bootstrap=root,
            )
            self._updater._trusted_set.reference_time = now

    def refresh(self) -> None:
        """Bring the top-level metadata up to date. Raises MetadataError, TransportError."""
        with self._errors():
            self._updater.refresh()

    def director_keys(self) -> tuple[list[PublicKey], int]:
        """Return the keys that may sign desired documents, and how many must. Raises MetadataError when none are delegated."""
        delegations = self._updater._trusted_set.targets.delegations
        role = (delegations.roles or {}).get(DIRECTOR_ROLE) if delegations is not None else None
        if delegations is None or role is None:
            raise MetadataError("the targets role delegates no director", code="tuf.no_director")
        keys = [delegations.keys[keyid] for keyid in role.keyids if keyid in delegations.keys]
        return [
            PublicKey(key.keyid, key.keytype, key.scheme, str(key.keyval["public"])) for key in keys
        ], role.threshold

    def announced(self) -> Announcement | None:
        """Return where the server says that it is, None for nothing, or what cannot be read."""
        found = self._updater._trusted_set.targets.targets.get(TARGET)
        try:
            return None if found is None else parse_announcement(found.custom)
        except BadMessageError as error:
            log.warning("announced places refused", extra={"reason": error.message})
            return None

    def target(self, ref: Ref) -> tuple[str, int]:
        """Return the sha256 of the leaf index and the security version of `ref`, after comparing it with the signed target of its path.

        Raises TargetUnknownError, TargetMismatchError, MetadataError, TransportError.
        """
        found = self._found(ref.target)
        if found is None:
            raise TargetUnknownError(f"{ref.target} is not in the signed repository")
        if found.length != ref.length or found.hashes.get("sha256") != ref.sha256:
            raise TargetMismatchError(
                f"{ref.target}: the desired document says {ref.length} bytes, sha256 {ref.sha256[:12]}…; the repository"
                f" says {found.length} bytes, sha256 {str(found.hashes.get('sha256'))[:12]}…"
            )
        return _leaves_of(found, ref.target), _sec_version_of(found)

    def sec_version(self, path: str) -> int:
        """Return the security version of a target; 0 when it is not named or has none. Raises MetadataError, TransportError."""
        found = self._found(path)
        return 0 if found is None else _sec_version_of(found)

    def latest_s(self) -> int:
        """Return the last moment at which what was signed in good order may have been signed, unix seconds."""
        timestamp = self._updater._trusted_set.timestamp
        return int(timestamp.expires.timestamp())

    def shut_out(self, model: str) -> ShutOut:
        """Return what the role of a model shuts out of it, nothing when there is no such role. Raises MetadataError, TransportError."""
        self._found(f"{model}/-/-.bundle")  # loads the roles on the way; no bundle has this name
        trusted, role = self._updater._trusted_set, f"{MODEL_PREFIX}{model}"
        custom = trusted[role].unrecognized_fields.get("custom") if role in trusted else None
        if custom is None:
            return ShutOut()
        try:
            found = msgspec.convert(custom, _RoleCustom)
            for version in found.withdrawn:
                parse_version(version)
        except (msgspec.ValidationError, EdgefleetError) as error:
            raise MetadataError(
                f"the role {role} says what is shut out in no known form: {error}", code=BAD_CUSTOM
            ) from error
        if found.sec_floor > self.latest_s():
            raise MetadataError(
                f"sec_floor {found.sec_floor} of {role} is a moment that has not come yet", code=BAD_CUSTOM
            )
        return ShutOut(sec_floor=found.sec_floor, versions=found.withdrawn)

    def versions(self) -> dict[str, int]:
        """Return the versions of all metadata loaded, and those the snapshot vouches for."""
        trusted = self._updater._trusted_set
        found = {name.removesuffix(".json"): meta.version for name, meta in trusted.snapshot.meta.items()}
        found.update({role: trusted[role].version for role in _TOP_ROLES})
        return found

    def top_keys(self) -> dict[str, str]:
        """Return the key ids of the top-level roles by the newest root, sorted and joined."""
        roles = self._updater._trusted_set.root.roles
        return {name: ",".join(sorted(role.keyids)) for name, role in roles.items() if name != "root"}

    def _found(self, path: str) -> TargetFile | None:
        """Return what signed metadata says of a path.

        ngclient remembers a role by its name, whoever delegates it: a role that is loaded for two parents would answer for both.
        """
        with self._errors():
            found = self._updater.get_targetinfo(path)
        names = [name for _, name in self._updater._trusted_set._trusted_delegations]
        if len(names) != len(set(names)):
            raise MetadataError(f"one role is delegated by two roles, on the way to {path}", code=GENERAL)
        return found

    def _errors(self) -> "_TufErrors":
        return _TufErrors(self._fetcher, self._seen)

    def _seen(self, code: str) -> Seen | None:
        """Return how the repository falls short of what this device trusts already; None when it was refused for another reason."""
        trusted = self._updater._trusted_set
        timestamp, snapshot = trusted.get(Timestamp.type), trusted.get(Snapshot.type)
        known = {name.removesuffix(".json"): meta.version for name, meta in snapshot.meta.items()} if snapshot else {}
        if code == ROLLBACK:
            tops = [timestamp.version, timestamp.snapshot_meta.version] if timestamp else []
            return Seen(version=max([*tops, *known.values()], default=0))
        if code != GENERAL or not self._fetcher.snapshot:
            return None
        gone = sorted(known.keys() - _named_by(self._fetcher.snapshot))
        return Seen(roles={name: known[name] for name in gone[:MAX_SEEN_ROLES]}) if gone else None


class _TufErrors:
    """Turns python-tuf's errors into ours, at this port and nowhere else."""

    def __init__(self, fetcher: Fetcher, seen: Callable[[str], Seen | None]) -> None:
        self._fetcher = fetcher
        self._seen = seen

    def __enter__(self) -> None:
        self._fetcher.failure = None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        if error is None:
            return
        if isinstance(error, tuf_errors.DownloadLengthMismatchError):
            raise MetadataError(f"metadata is larger than it may be: {error}", code="tuf.too_big") from error
        if isinstance(error, tuf_errors.DownloadError):
            raise self._fetcher.failure or TransportError(f"metadata could not be fetched: {error}") from error
        if isinstance(error, tuf_errors.RepositoryError):
            code = _code_of(error)
            seen = self._seen(code)
            code = ROLES_MISSING if seen is not None and seen.roles else code
            raise MetadataError(f"repository metadata was refused: {error}", code=code, seen=seen) from error


def _code_of(error: tuf_errors.RepositoryError) -> str:
    table: tuple[tuple[type[Exception], str], ...] = (
        (tuf_errors.UnsignedMetadataError, "tuf.unsigned"),
        (tuf_errors.BadVersionNumberError, ROLLBACK),
        (tuf_errors.ExpiredMetadataError, "tuf.expired"),
        (tuf_errors.LengthOrHashMismatchError, "tuf.length_or_hash"),
    )
    return next((code for kind, code in table if isinstance(error, kind)), GENERAL)


def _named_by(snapshot: bytes) -> set[str]:
    """Return the roles that a snapshot names; none when it cannot be read."""
    try:
        signed = Metadata[Snapshot].from_bytes(snapshot).signed
    except tuf_errors.RepositoryError:
        return set()
    return {name.removesuffix(".json") for name in signed.meta}


class _RoleCustom(msgspec.Struct, frozen=True):
    """`custom` of a model's role. What else is in it is not for this agent."""

    sec_floor: Annotated[int, msgspec.Meta(ge=0, le=MAX_INT)] = 0
    withdrawn: list[str] = []


def _sec_version_of(target: TargetFile) -> int:
    """Return the security version in a target's `custom`; 0 for none, and for what is none."""
    found = (target.custom or {}).get("sec_version", 0)
    return found if isinstance(found, int) and not isinstance(found, bool) and 0 <= found <= MAX_INT else 0


def _leaves_of(target: TargetFile, path: str) -> str:
    custom = target.custom or {}
    try:
        return parse_sha256(str(custom.get("leaves", "")))
    except EdgefleetError as error:
        raise TargetMismatchError(f"{path} is signed without the digest of its leaf index") from error


def decode_head(raw: bytes) -> RepoHead | None:
    """Return the hint in a `repo/head` payload; None for anything unusable, since it is only a hint."""
    if not raw:
        return None
    try:
        return decode(RepoHead, raw)
    except BadMessageError:
        return None
