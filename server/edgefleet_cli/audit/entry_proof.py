"""The proof that one entry is in the audit trail as a head has it: a file that is checked without a server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from edgefleet_cli.core.structs import Struct
from edgefleet_terms.audit_chain.audit_head import AuditHead
from edgefleet_terms.audit_chain.hash_chain import AuditRecord, entry_hash, hash_of, with_hash
from edgefleet_terms.audit_chain.merkle_tree import is_included, leaf_hash

FORMAT: Final = 1


class ProvenEntry(Struct, frozen=True, kw_only=True):
    """An entry and its hash."""

    action: str
    actor: str
    at: str
    hash: str
    n: int
    object: str
    request_id: str
    status: int


class SignedFiles(Struct, frozen=True, kw_only=True):
    """The TUF files that vouch for a head, as they are: every root from the first on, `targets` and `audit`."""

    audit: str
    roots: tuple[str, ...]
    targets: str


class EntryProof(Struct, frozen=True, kw_only=True):
    """An entry, the hash before it, the way from its leaf to the root of the head, and what signs the head."""

    before: str
    entry: ProvenEntry
    head: AuditHead
    path: tuple[str, ...]
    signed: SignedFiles
    v: int = FORMAT


class BadProofError(ValueError):
    """A file is no proof."""


def proof_bytes(proof: EntryProof) -> bytes:
    """Return the bytes of a proof, readable as text."""
    import msgspec

    return msgspec.json.format(msgspec.json.encode(proof), indent=2) + b"\n"


def proof_of(data: bytes) -> EntryProof:
    """Return the proof of a file. Raises BadProofError."""
    import msgspec

    try:
        found = msgspec.json.decode(data, type=EntryProof)
    except msgspec.MsgspecError as error:
        raise BadProofError(str(error)) from error
    if found.v != FORMAT:
        raise BadProofError(f"its format is {found.v}; this is for format {FORMAT}")
    return found


def what_fails(proof: EntryProof) -> str:
    """Return why an entry is not proven to be under the head of its proof, "" when it is. Says nothing of who signed the head."""
    entry, before, path = proof.entry, hash_of(proof.before), _hashes(proof.path)
    root = hash_of(proof.head.root)
    if before is None or path is None or root is None:
        return "one of its hashes is none"
    record = AuditRecord(
        action=entry.action,
        actor=entry.actor,
        at=entry.at,
        n=entry.n,
        object=entry.object,
        request_id=entry.request_id,
        status=entry.status,
    )
    own = entry_hash(before, with_hash(record, "").body(entry.n))
    if own.hex() != entry.hash:
        return f"entry {entry.n} is not what its hash says: it was changed"
    if not is_included(leaf_hash(own), entry.n - 1, proof.head.size, path, root):
        return f"entry {entry.n} is not under the head over {proof.head.size} entries"
    return ""


def _hashes(texts: Sequence[str]) -> list[bytes] | None:
    found = [hash_of(text) for text in texts]
    return None if None in found else [one for one in found if one is not None]
