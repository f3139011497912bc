"""Bodies of the routes of the chain. Times are text, as the hashes cover them."""

from dataclasses import asdict
from datetime import datetime

from pydantic import BaseModel

from edgefleet_server.access.audit_chain.chain_model import ChainState, ProvenEntry
from edgefleet_terms.audit_chain.audit_head import AuditHead
from edgefleet_terms.audit_chain.hash_chain import ChainedEntry


class AuditHeadOut(BaseModel):
    """A head: the tree over the first `size` entries. chain: hash of the last one; root: of the tree. TUF has the digest of the newest."""

    at: str
    chain: str
    root: str
    size: int

    @classmethod
    def of(cls, head: AuditHead) -> "AuditHeadOut":
        """Return the body of a head."""
        return cls(**asdict(head))


class AuditChainOut(BaseModel):
    """The chain. holds: false once an entry did not follow the one before it, `broken_n`; whole_at: when it was last read to its end."""

    entries: int
    head: AuditHeadOut | None
    holds: bool
    broken_n: int | None
    whole_at: datetime | None

    @classmethod
    def of(cls, state: ChainState) -> "AuditChainOut":
        """Return the body of the chain's state."""
        return cls(
            entries=state.entries,
            head=None if state.head is None else AuditHeadOut.of(state.head),
            holds=state.holds,
            broken_n=state.check.broken_n or None,
            whole_at=state.check.whole_at,
        )


class ChainedEntryOut(BaseModel):
    """An entry as its hash covers it, and its hash."""

    action: str
    actor: str
    at: str
    hash: str
    n: int
    object: str
    request_id: str
    status: int

    @classmethod
    def of(cls, entry: ChainedEntry) -> "ChainedEntryOut":
        """Return the body of an entry."""
        return cls(hash=entry.hash, **asdict(entry.record()))


class AuditProofOut(BaseModel):
    """An entry, the hash before it, and its way to the root of a head (RFC 9162 §2.1.3). since: the way from an older head (§2.1.4)."""

    before: str
    entry: ChainedEntryOut
    head: AuditHeadOut
    path: list[str]
    since: list[str]

    @classmethod
    def of(cls, found: ProvenEntry) -> "AuditProofOut":
        """Return the body of a proof."""
        return cls(
            before=found.before.hex(),
            entry=ChainedEntryOut.of(found.entry),
            head=AuditHeadOut.of(found.head),
            path=[one.hex() for one in found.path],
            since=[one.hex() for one in found.since],
        )
