"""The TUF metadata in an archive, verified from a root of trust without a server: who signs what, and what is signed.

Ends of validity do not count: an archive says what was signed then.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from edgefleet_cli.compliance.errors import EvidenceNotProvenError
from edgefleet_terms.audit_chain.audit_head import AUDIT_ROLE

if TYPE_CHECKING:
    from tuf.api.metadata import Metadata, Targets  # type: ignore[attr-defined]  # documented there, but not in __all__

MODEL_PREFIX: Final = "m."


@dataclass(frozen=True)
class SignedTarget:
    """What TUF says of a target. role: whose signature; is_team: `targets` names that role's keys, not the server's `releases`."""

    sha256: str
    role: str
    threshold: int
    is_team: bool


class TrustedRoles:
    """Metadata that holds from a root of trust down."""

    def __init__(self, files: Mapping[str, bytes], trusted: Collection[str]) -> None:
        """Verify roots, timestamp, snapshot, targets, `releases` and `audit`. files: by name; trusted: SHA-256 of roots.

        Raises EvidenceNotProvenError.
        """
        from tuf.api.exceptions import RepositoryError

        self._files = files
        try:
            self.root_sha256, self._root = _root_of(files, trusted)
            self._targets = self._signed_by(self._root.signed, "targets")
            stamp = self._signed_by(self._root.signed, "timestamp")
            snapshot = self._signed_by(self._root.signed, "snapshot")
            if snapshot.signed.version != stamp.signed.snapshot_meta.version:
                raise RepositoryError("the timestamp names another snapshot")
            for name in ("targets", "releases", AUDIT_ROLE):
                named, version = snapshot.signed.meta[f"{name}.json"].version, self._version(name)
                if named != version:
                    raise RepositoryError(f"the snapshot names version {named} of {name}, not {version}")
            self._releases = self._signed_by(self._targets.signed, "releases")
            self._audit = self._signed_by(self._targets.signed, AUDIT_ROLE)
        except (RepositoryError, ValueError, KeyError, AttributeError, TypeError) as error:
            raise EvidenceNotProvenError(
                "the signed metadata in this archive does not hold",
                why=str(error) or type(error).__name__,
                next_step="ask for the archive again; where that does not help, somebody changed the server's metadata",
            ) from error

    def audit_key(self, keyid: str) -> Any:
        """Return a public key of the role `audit`. Raises EvidenceNotProvenError."""
        delegations = self._targets.signed.delegations
        assert delegations is not None
        assert delegations.roles is not None
        if keyid not in delegations.roles[AUDIT_ROLE].keyids or keyid not in delegations.keys:
            raise EvidenceNotProvenError(
                "the manifest is signed by a key that is not the audit trail's",
                why=f"the key {keyid[:12]} is not one that `targets` delegates {AUDIT_ROLE} to",
                next_step="ask for the archive again",
            )
        return delegations.keys[keyid]

    def target(self, path: str) -> SignedTarget | None:
        """Return how a bundle's path is signed, None where nothing signed names it. Raises EvidenceNotProvenError."""
        from tuf.api.exceptions import RepositoryError

        role = MODEL_PREFIX + path.split("/", 1)[0]
        try:
            for parent, is_team in ((self._targets, True), (self._releases, False)):
                known = parent.signed.delegations.roles if parent.signed.delegations is not None else None
                if known and role in known and known[role].is_delegated_path(path):
                    found = self._signed_by(parent.signed, role)
                    return _target_of(found, path, role, known[role].threshold, is_team=is_team)
            return _target_of(self._releases, path, "releases", 1, is_team=False)
        except (RepositoryError, ValueError, KeyError) as error:
            raise EvidenceNotProvenError(
                f"the metadata of {role} in this archive does not hold",
                why=str(error),
                next_step="ask for the archive again",
            ) from error

    def _version(self, name: str) -> int:
        from tuf.api.metadata import Metadata

        return int(Metadata.from_bytes(self._files[f"{name}.json"]).signed.version)

    def _signed_by(self, parent: Any, name: str) -> Any:
        from tuf.api.metadata import Metadata

        found = Metadata.from_bytes(self._files[f"{name}.json"])
        parent.verify_delegate(name, found.signed_bytes, found.signatures)
        return found


def _root_of(files: Mapping[str, bytes], trusted: Collection[str]) -> tuple[str, Any]:
    """Return the SHA-256 of the trusted root and the newest root, each signed by the one before and by itself. Raises RepositoryError."""
    from tuf.api.exceptions import RepositoryError
    from tuf.api.metadata import Metadata, Root  # type: ignore[attr-defined]  # as above

    number, begin, root = 1, "", None
    first = hashlib.sha256(files.get("1.root.json", b"")).hexdigest()
    while (data := files.get(f"{number}.root.json")) is not None:
        following = Metadata[Root].from_bytes(data)
        if root is not None:
            if following.signed.version != root.signed.version + 1:
                raise RepositoryError(f"root {following.signed.version} follows root {root.signed.version}")
            for one in (root.signed, following.signed):
                one.verify_delegate("root", following.signed_bytes, following.signatures)
            root = following
        elif hashlib.sha256(data).hexdigest() in trusted:
            begin, root = hashlib.sha256(data).hexdigest(), following
        number += 1
    if root is None:
        raise EvidenceNotProvenError(
            "this archive is signed under a root of trust that is not known here",
            why=f"its first root has the sha256 {first}",
            next_step="compare it with what the server's owner says, then give it: --root-sha256 HEX",
        )
    return begin, root


def _target_of(found: Metadata[Targets], path: str, role: str, threshold: int, *, is_team: bool) -> SignedTarget | None:
    target = found.signed.targets.get(path)
    return None if target is None else SignedTarget(target.hashes["sha256"], role, threshold, is_team)
