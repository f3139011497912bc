"""A head of the audit trail: how many entries there were at a moment, and the two hashes that stand for all of them."""

import json
from dataclasses import asdict, dataclass
from typing import Final

from edgefleet_terms.audit_chain.hash_chain import hash_of

HEAD_TARGET: Final = "audit/sth.json"
"""The path under which TUF names the newest head. "sth": signed tree head, as RFC 6962 called it."""
AUDIT_ROLE: Final = "audit"
"""The TUF role that signs it, by a key of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditHead:
    """One head, its fields in the order of canonical JSON. at: UTC; chain: hash of the last entry; root: of the tree; both in hex."""

    at: str
    chain: str
    root: str
    size: int


class BadHeadError(ValueError):
    """What should be a head is none."""


def head_bytes(head: AuditHead) -> bytes:
    """Return the bytes of a head, which are the same wherever it is written: what TUF has the digest of."""
    return json.dumps(asdict(head), separators=(",", ":"), ensure_ascii=False).encode()


def head_of(data: bytes) -> AuditHead:
    """Return the head of its bytes. Raises BadHeadError."""
    try:
        found = json.loads(data)
        head = AuditHead(**{name: found[name] for name in ("at", "chain", "root", "size")})
    except (ValueError, TypeError, KeyError) as error:
        raise BadHeadError(f"it is none: {error}") from error
    if type(head.size) is not int or head.size < 1 or not isinstance(head.at, str):
        raise BadHeadError("its size or its time cannot be right")
    if hash_of(str(head.chain)) is None or hash_of(str(head.root)) is None:
        raise BadHeadError("one of its hashes is none")
    return head
