"""The check of an archive of evidence, from the file to the verdict."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Final

from edgefleet_cli.audit.audit_state import roots_seen
from edgefleet_cli.compliance.evidence_archive import unpacked
from edgefleet_cli.compliance.evidence_check import Verdict, check_evidence
from edgefleet_cli.core.errors import UnreadableFileError, UsageError
from edgefleet_cli.core.session import Session
from edgefleet_cli.render.progress import count_bar
from edgefleet_terms.audit_chain.hash_chain import hash_of

_KIB: Final = 1024


def verify_archive(session: Session, archive: Path, root_sha256: str, public_key: Path | None) -> Verdict:
    """Check an archive without a server. Raises EvidenceNotProvenError, EvidenceFailedError, UsageError, UnreadableFileError."""
    root = root_sha256.lower()
    if root and hash_of(root) is None:
        raise UsageError(f"{root_sha256!r} is not a SHA-256", why="expected 64 hex digits", next_step="copy it whole")
    trusted = {root} if root else set() if public_key is not None else set(roots_seen())
    try:
        pem = None if public_key is None else public_key.read_bytes()
        size = archive.stat().st_size
        with tempfile.TemporaryDirectory(prefix="edgectl-evidence-") as folder:
            with count_bar(session.out, "unpacking, KiB", size // _KIB) as advance:
                files = unpacked(archive, Path(folder), lambda count: advance(count // _KIB))
            return check_evidence(files, trusted=trusted, public_key=pem)
    except OSError as error:
        raise UnreadableFileError(
            f"cannot read {error.filename or archive}",
            why=error.strerror or str(error),
            next_step="check the path and its permissions",
        ) from error
