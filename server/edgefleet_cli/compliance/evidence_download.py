"""The evidence of a model, fetched from the server and written as an archive that was checked first."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from edgefleet_cli.audit.audit_state import state_of
from edgefleet_cli.audit.trust_walk import metadata_file
from edgefleet_cli.compliance.evidence_archive import ENDINGS, PIECE_BYTES, Unpacked, unpacked, writing
from edgefleet_cli.compliance.evidence_check import check_evidence
from edgefleet_cli.core.errors import UsageError
from edgefleet_cli.core.files import whole_file
from edgefleet_cli.core.options import time_of
from edgefleet_cli.core.session import Session
from edgefleet_cli.core.transport.request import part
from edgefleet_cli.render.format import counted, text
from edgefleet_cli.render.progress import count_bar

BYTES: Final = "application/octet-stream"


def write_evidence(session: Session, model: str, out: Path, release: str, since: str | None) -> None:
    """Fetch the evidence of a model, check it against the root that this machine trusts, and write it whole or not at all.

    Raises EvidenceNotProvenError, EvidenceFailedError, UsageError, UnreadableFileError, ApiError.
    """
    import hashlib

    if not out.name.endswith(ENDINGS):
        raise UsageError(
            f"cannot tell how to write {out}", why="its name ends in none of these", next_step=", ".join(ENDINGS)
        )
    begin = None if since is None else time_of(since, session.clock.now())
    state = state_of(session.server)
    root = state.root() or metadata_file(session.api, "1.root.json")
    with tempfile.TemporaryDirectory(prefix="edgectl-evidence-") as folder:
        fetched = Path(folder) / "evidence.tar"
        total = _about(session, model)
        with fetched.open("wb") as sink, count_bar(session.out, "collecting, files", total) as advance:
            query: dict[str, Any] = {"release": release or None, "since": None if begin is None else begin.isoformat()}
            for piece in session.api.download(f"/models/{part(model)}/evidence", BYTES, **query):
                sink.write(piece)
                advance(1)
        files = unpacked(fetched, Path(folder))
        verdict = check_evidence(files, trusted={hashlib.sha256(root).hexdigest()})
        if state.root() is None:
            state.pin_root(root)
        with whole_file(out, "--out", replace=True) as target, writing(target, out.name) as put:
            for one in files:
                put(one.path, one.length, _pieces(one))
    length = out.stat().st_size
    document = {
        "file": str(out),
        "bytes": length,
        "files": len(files),
        "root_sha256": verdict.root_sha256,
        "wrong": verdict.wrong,
    }

    def lines() -> None:
        session.out.line(f"{text(out)} has {counted(len(files), 'file')} of evidence, {length} bytes")
        session.out.line(f"check it: edgectl report verify {text(out)} --root-sha256 {verdict.root_sha256}")

    session.out.document(document, lines)
    for left in verdict.manifest.left_out:
        session.out.note(f"not in it: {left.what} ({left.why})")


def _about(session: Session, model: str) -> int:
    """Return about how many pieces come: for a bar, nothing else."""
    found = session.api.page("/rollouts", dict, model=model, limit=1).raw.get("total", 0)
    releases = session.api.page("/releases", dict, model=model, limit=1).raw.get("total", 0)
    return 3 * (25 + 2 * int(found) + 7 * int(releases))


def _pieces(one: Unpacked) -> Iterator[bytes]:
    with one.open() as source:
        while piece := source.read(PIECE_BYTES):
            yield piece
