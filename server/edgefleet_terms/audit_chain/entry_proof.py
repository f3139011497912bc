"""The proof that one entry is in the audit trail as a head has it: a file that is checked without a server."""

from collections.abc import Sequence
from typing import Final

import msgspec

from edgefleet_terms.audit_chain.audit_head import AuditHead
from edgefleet_terms.audit_chain.hash_chain import ChainedRecord, entry_hash, hash_of
from edgefleet_terms.audit_chain.merkle_tree import is_included, leaf_hash

FORMAT: Final = 1


class SignedFiles(msgspec.Struct, frozen=True, kw_only=True):
    """The TUF files that vouch for a head, as they are: every root from the first on, `targets` and `audit`."""

    audit: str
    roots: tuple[str, ...]
    targets: str


class EntryProof(msgspec.Struct, frozen=True, kw_only=True):
    """An entry, the hash before it, the way from its leaf to the root of the head, and what signs the head."""

    before: str
    entry: ChainedRecord
    head: AuditHead
    path: tuple[str, ...]
    signed: SignedFiles
    v: int = FORMAT


class BadProofError(ValueError):
    """A file is no proof."""


def proof_bytes(proof: EntryProof) -> bytes:
    """Return the bytes of a proof, readable as text."""
    return msgspec.json.format(msgspec.json.encode(proof), indent=2) + b"\n"


def proof_of(data: bytes) -> EntryProof:
    """Return the proof of a file. Raises BadProofError."""
    try:
        found = msgspec.json.decode(data, type=EntryProof)
    except msgspec.MsgspecError as error:
        raise BadProofError(str(error)) from error
    if found.v != FORMAT:
        raise BadProofError(f"its format is {found.v}; this is for format {FORMAT}")
    return found


def what_fails(proof: EntryProof) -> str:
    """Return why an entry is not proven to be under the head of its proof, "" when it is. Says nothing of who signed the head."""
    before, path = hash_of(proof.before), _hashes(proof.path)
    if before is None or path is None or hash_of(proof.head.root) is None:
        return "one of its hashes is none"
    own = entry_hash(before, proof.entry.record)
    if own.hex() != proof.entry.hash:
        return f"entry {proof.entry.n} is not what its hash says: it was changed"
    size, root = proof.head.size, bytes.fromhex(proof.head.root)
    if not is_included(leaf_hash(own), proof.entry.n - 1, size, path, root):
        return f"entry {proof.entry.n} is not under the head over {size} entries"
    return ""


def _hashes(texts: Sequence[str]) -> list[bytes] | None:
    found = [hash_of(text) for text in texts]
    return None if None in found else [one for one in found if one is not None]
