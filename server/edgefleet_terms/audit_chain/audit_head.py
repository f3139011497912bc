"""A head of the audit trail: how many entries there were at a moment, and the two hashes that stand for all of them."""

from typing import Final

import msgspec

from edgefleet_terms.audit_chain.hash_chain import hash_of

HEAD_TARGET: Final = "audit/sth.json"
"""The path under which TUF names the newest head. "sth": signed tree head, as RFC 6962 called it."""
AUDIT_ROLE: Final = "audit"
"""The TUF role that signs it, by a key of its own."""


class AuditHead(msgspec.Struct, frozen=True, kw_only=True):
    """One head, its fields in the order of canonical JSON. at: UTC; chain: hash of the last entry; root: of the tree; both in hex."""

    at: str
    chain: str
    root: str
    size: int


class BadHeadError(ValueError):
    """What should be a head is none."""


def head_bytes(head: AuditHead) -> bytes:
    """Return the bytes of a head, which are the same wherever it is written: what TUF has the digest of."""
    return msgspec.json.encode(head)


def head_of(data: bytes) -> AuditHead:
    """Return the head of its bytes. Raises BadHeadError."""
    try:
        head = msgspec.json.decode(data, type=AuditHead)
    except msgspec.MsgspecError as error:
        raise BadHeadError(str(error)) from error
    if head.size < 1 or hash_of(head.chain) is None or hash_of(head.root) is None:
        raise BadHeadError("its size or one of its hashes cannot be right")
    return head
