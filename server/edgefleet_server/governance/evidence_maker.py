"""Makes an archive of evidence: what the API answers, the audit trail's part with its proofs, TUF's metadata, and a signed manifest."""

import json
from collections.abc import Callable, Collection, Generator, Iterator
from datetime import datetime
from itertools import chain
from threading import Lock
from typing import Final

from edgefleet_protocol.clock import Clock
from edgefleet_protocol.errors import EdgefleetError
from edgefleet_server.access.audit_chain.chain_book import AuditChain, lines
from edgefleet_server.access.errors import BrokenTrailError
from edgefleet_server.db.database import Database
from edgefleet_server.governance.api_reader import ApiReader
from edgefleet_server.governance.archive_stream import Member, archived, closed
from edgefleet_server.governance.errors import EvidenceBusyError, EvidenceIncompleteError, NoTrailError
from edgefleet_server.governance.evidence_sources import EvidenceSources
from edgefleet_server.signing.service import SigningService
from edgefleet_server.signing.trust import MODEL_PREFIX
from edgefleet_terms.audit_chain.audit_head import AUDIT_ROLE, AuditHead, head_bytes
from edgefleet_terms.audit_chain.hash_chain import time_text
from edgefleet_terms.evidence.audit_objects import concerns
from edgefleet_terms.evidence.evidence_manifest import (
    FAILURE,
    MANIFEST,
    SIGNATURE,
    EvidenceFile,
    EvidenceManifest,
    LeftOut,
    manifest_bytes,
    signature_bytes,
)

IDLE_S: Final = 120.0
"""So long a maker waits for a reader that takes nothing, before another may begin."""
MAX_ENTRIES: Final = 50_000
"""Of the audit trail: each costs a proof."""


class EvidenceMaker:
    """Makes one archive at a time. Thread-safe; calls block."""

    def __init__(self, db: Database, trail: AuditChain, signing: SigningService, clock: Clock, server: str) -> None:
        """Wire the parts. server: its version, for the manifest."""
        self._db, self._chain, self._signing, self._clock, self._server = db, trail, signing, clock, server
        self._lock, self._busy_until_s = Lock(), float("-inf")

    def archive(
        self, api: ApiReader, model: str, *, by: str, release: str = "", since: datetime | None = None
    ) -> Generator[bytes, None, None]:
        """Return the archive in pieces, made while they are read. by: who asked.

        A failure under way is the last file of the archive, which then has no manifest. Raises EvidenceBusyError, NoTrailError.
        """
        now_s = self._clock.monotonic_s()
        with self._lock:
            if now_s < self._busy_until_s:
                raise EvidenceBusyError("another archive of evidence is being made")
            self._busy_until_s = now_s + IDLE_S
        head, broken = self._head()
        trust = list(
            trust_files(self._signing.metadata_file, {"targets", "releases", AUDIT_ROLE, MODEL_PREFIX + model})
        )
        return self._made(_Wanted(api, model, by, release, since), head, broken, trust)

    def _made(
        self, wanted: "_Wanted", head: AuditHead, broken: str, trust: list[Member]
    ) -> Generator[bytes, None, None]:
        sources = EvidenceSources(wanted.api.noting(self._stay), wanted.model, wanted.release, wanted.since)
        if broken:
            sources.collected.left_out.append(LeftOut(what="newer entries of the audit trail", why=broken))
        members = chain(self._members(sources, wanted, head), trust)
        try:
            for piece in archived(members, lambda files: self._signed(wanted, head, sources, files)):
                self._stay()
                yield piece
        except EdgefleetError as error:
            said = {"code": error.code, "detail": error.message, "next": error.next_step}
            yield from closed([Member(FAILURE, "", [json.dumps(said).encode()])])
        finally:
            self._busy_until_s = float("-inf")

    def _stay(self) -> None:
        self._busy_until_s = self._clock.monotonic_s() + IDLE_S

    def _head(self) -> tuple[AuditHead, str]:
        """Return a head over what was written until now, published, and why it is an older one ("" = it is not). Raises NoTrailError."""
        broken = ""
        try:
            head = self._chain.make_head()
        except BrokenTrailError as error:
            broken, head = error.message, self._chain.state().head
        if head is None:
            raise NoTrailError("the audit trail has no head yet")
        if not broken:
            self._signing.publish_audit_head(head_bytes(head), head.size)
        return head, broken

    def _members(self, sources: EvidenceSources, wanted: "_Wanted", head: AuditHead) -> Iterator[Member]:
        yield from sources.members()
        yield Member("audit/head.json", f"/api/v1/audit/heads/{head.size}", [head_bytes(head)])
        yield Member("audit/entries.jsonl", "/api/v1/audit/entries/{n}/proof", self._entries(sources, wanted, head))

    def _entries(self, sources: EvidenceSources, wanted: "_Wanted", head: AuditHead) -> Iterator[bytes]:
        """Yield the model's entries with their ways to the head, one a line."""
        known, count = sources.objects(), 0
        for entry in lines(self._chain, 0, head.size):
            record = entry.record()
            is_old = wanted.since is not None and datetime.fromisoformat(record.at) < wanted.since
            if is_old or not concerns(record, known):
                continue
            count += 1
            if count > MAX_ENTRIES:
                why = f"entries from number {record.n} on: more than {MAX_ENTRIES}, so give a shorter time"
                sources.collected.left_out.append(LeftOut(what="audit/entries.jsonl", why=why))
                return
            proof = self._chain.prove(record.n, head.size, None)
            line = {
                "before": proof.before.hex(),
                "entry": {name: getattr(record, name) for name in record.__slots__} | {"hash": entry.hash},
                "path": [one.hex() for one in proof.path],
            }
            yield json.dumps(line, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"

    def _signed(
        self, wanted: "_Wanted", head: AuditHead, sources: EvidenceSources, files: tuple[EvidenceFile, ...]
    ) -> Iterator[Member]:
        manifest = EvidenceManifest(
            files=files,
            head_size=head.size,
            left_out=tuple(sources.collected.left_out),
            made_at=time_text(self._clock.now()),
            made_by=wanted.by,
            model=wanted.model,
            release=wanted.release,
            server=self._server,
            since="" if wanted.since is None else time_text(wanted.since),
        )
        data = manifest_bytes(manifest)
        with self._db.read() as session:
            signature = self._signing.audit.sign_evidence(session, data)
        yield Member(MANIFEST, "", [data])
        yield Member(SIGNATURE, "", [signature_bytes(signature)])


class _Wanted:
    """What was asked for."""

    __slots__ = ("api", "by", "model", "release", "since")

    def __init__(self, api: ApiReader, model: str, by: str, release: str, since: datetime | None) -> None:
        self.api, self.model, self.by, self.release, self.since = api, model, by, release, since


def trust_files(file: Callable[[str], bytes | None], roles: Collection[str]) -> Iterator[Member]:
    """Yield TUF's metadata of this moment: every root, timestamp, snapshot, and these roles. Raises EvidenceIncompleteError."""
    version = 1
    while (root := file(f"{version}.root.json")) is not None:
        yield _trusted(f"{version}.root.json", root)
        version += 1
    stamp = file("timestamp.json")
    if stamp is None:
        raise EvidenceIncompleteError("the database holds no TUF metadata")
    yield _trusted("timestamp.json", stamp)
    number = json.loads(stamp)["signed"]["meta"]["snapshot.json"]["version"]
    snapshot = file(f"{number}.snapshot.json")
    if snapshot is None:
        raise EvidenceIncompleteError(f"the database has no version {number} of snapshot")
    yield _trusted("snapshot.json", snapshot, f"{number}.snapshot.json")
    for name, one in sorted(json.loads(snapshot)["signed"]["meta"].items()):
        data = file(f"{one['version']}.{name}") if name.removesuffix(".json") in roles else None
        if data is not None:
            yield _trusted(name, data, f"{one['version']}.{name}")


def _trusted(name: str, data: bytes, asked: str = "") -> Member:
    return Member(f"trust/{name}", f"/api/v1/trust/metadata/{asked or name}", [data])
