"""The head of the audit trail that TUF names: fetched and verified as a device would, or checked in a file without a server."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from edgefleet_cli.audit.audit_state import AuditState
from edgefleet_cli.audit.entry_proof import SignedFiles
from edgefleet_cli.audit.errors import TrailNotProvenError
from edgefleet_cli.audit.trust_walk import metadata_file, walked
from edgefleet_cli.core.errors import UnreadableFileError
from edgefleet_terms.audit_chain.audit_head import AUDIT_ROLE, HEAD_TARGET, AuditHead, head_bytes

if TYPE_CHECKING:
    from tuf.api.metadata import TargetFile  # type: ignore[attr-defined]  # documented there, but not in __all__

    from edgefleet_cli.core.transport.api_client import ApiClient


@dataclass(frozen=True)
class Published:
    """A head that TUF vouches for. is_first: the root of trust was pinned just now; root_sha256: of the pinned one."""

    head: AuditHead
    signed: SignedFiles
    root_sha256: str
    is_first: bool


def fetch_published(api: ApiClient, state: AuditState, now: datetime) -> Published | None:
    """Return the newest head as TUF has it, None before the first. Raises TrailNotProvenError, CliError."""
    pinned = state.root()
    root = pinned or metadata_file(api, "1.root.json")
    target, roots = _find(api, state, root, now)
    if pinned is None:
        state.pin_root(root)
    if target is None:
        return None
    size = (target.custom or {}).get("size")
    head = api.get(f"/audit/heads/{size}", AuditHead).value
    _check_target(target, head)
    try:
        targets, audit = ((state.tuf_folder / f"{name}.json").read_text() for name in ("targets", AUDIT_ROLE))
    except OSError as error:
        raise UnreadableFileError(
            f"cannot read {state.tuf_folder}", why=str(error), next_step="check its owner and mode"
        ) from error
    texts = tuple(metadata_file(api, f"{version}.root.json").decode() for version in range(1, roots + 1))
    signed = SignedFiles(audit=audit, roots=texts, targets=targets)
    return Published(head, signed, hashlib.sha256(root).hexdigest(), pinned is None)


def check_signed(signed: SignedFiles, head: AuditHead, trusted: set[str]) -> str:
    """Check that a head is signed under a root that is trusted (SHA-256); return which. Asks nobody. Raises TrailNotProvenError.

    Ends of validity do not count: a proof says what was signed then.
    """
    from tuf.api.exceptions import RepositoryError
    from tuf.api.metadata import Metadata, Root, Targets  # type: ignore[attr-defined]  # not in __all__

    digests = [hashlib.sha256(text.encode()).hexdigest() for text in signed.roots]
    begin = next((i for i, digest in enumerate(digests) if digest in trusted), None)
    if begin is None:
        raise TrailNotProvenError(
            "this proof is signed under a root of trust that is not known here",
            why=f"its first root has the sha256 {digests[0] if digests else 'none'}",
            next_step="compare it with what the server's owner says, then give it: --root-sha256 HEX",
        )
    try:
        root = Metadata[Root].from_bytes(signed.roots[begin].encode()).signed
        for text in signed.roots[begin + 1 :]:
            following = Metadata[Root].from_bytes(text.encode())
            if following.signed.version != root.version + 1:
                raise RepositoryError(f"root {following.signed.version} follows root {root.version}")
            for one in (root, following.signed):
                one.verify_delegate("root", following.signed_bytes, following.signatures)
            root = following.signed
        targets = Metadata[Targets].from_bytes(signed.targets.encode())
        root.verify_delegate("targets", targets.signed_bytes, targets.signatures)
        audit = Metadata[Targets].from_bytes(signed.audit.encode())
        targets.signed.verify_delegate(AUDIT_ROLE, audit.signed_bytes, audit.signatures)
        roles = targets.signed.delegations.roles if targets.signed.delegations is not None else None
        target = audit.signed.targets.get(HEAD_TARGET)
        if roles is None or not roles[AUDIT_ROLE].is_delegated_path(HEAD_TARGET) or target is None:
            raise RepositoryError(f"{HEAD_TARGET} is not what the role {AUDIT_ROLE} may sign, or it signs none")
    except (RepositoryError, ValueError, KeyError, AttributeError) as error:  # the last: a file of another role
        raise TrailNotProvenError(
            "the signatures of this proof do not hold", why=str(error), next_step="ask for the proof again"
        ) from error
    _check_target(target, head)
    return digests[begin]


def _check_target(target: TargetFile, head: AuditHead) -> None:
    from tuf.api.exceptions import LengthOrHashMismatchError

    try:
        target.verify_length_and_hashes(head_bytes(head))
    except LengthOrHashMismatchError as error:
        raise TrailNotProvenError(
            f"the head over {head.size} entries is not the one that was signed",
            why=str(error),
            next_step="somebody changed it at the server: keep the server's database and its log, and tell its owner",
        ) from error


def _find(api: ApiClient, state: AuditState, root: bytes, now: datetime) -> tuple[TargetFile | None, int]:
    """Return the target of the newest head and the version of the root, walked to from a pinned root."""
    updater, target = walked(api, state, root, now, HEAD_TARGET)
    return target, updater._trusted_set.root.version
