"""What the chain of the audit trail gives and takes."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from edgefleet_terms.audit_chain.audit_head import AuditHead
from edgefleet_terms.audit_chain.hash_chain import AuditRecord, ChainedEntry, time_text


@dataclass(frozen=True, slots=True)
class NewEntry:
    """An entry that is not yet in the chain. at: aware."""

    at: datetime
    actor: str
    action: str
    object: str
    status: int
    request_id: str

    def record(self, n: int) -> AuditRecord:
        """Return what its hash covers as entry `n`."""
        return AuditRecord(
            action=self.action,
            actor=self.actor,
            at=time_text(self.at),
            n=n,
            object=self.object,
            request_id=self.request_id,
            status=self.status,
        )


@dataclass(frozen=True, slots=True)
class Tail:
    """The last entry of the chain: how many there are, and its hash (32 bytes)."""

    n: int
    hash: bytes


@dataclass(frozen=True, slots=True)
class OwnCheck:
    """How far the server has read its own trail again. whole_at: when it last came to the end; broken_n: 0 = everything read holds."""

    n: int
    hash: bytes
    whole_at: datetime | None
    broken_n: int


@dataclass(frozen=True, slots=True)
class ChainState:
    """The chain as a page shows it. head: the newest, None before the first."""

    entries: int
    head: AuditHead | None
    check: OwnCheck

    @property
    def holds(self) -> bool:
        """Whether everything that the server read again follows."""
        return self.check.broken_n == 0


@dataclass(frozen=True, slots=True)
class ProvenEntry:
    """An entry with its way to the root of a head. since: the way from an older head to this one, none where none was asked for."""

    before: bytes
    entry: ChainedEntry
    head: AuditHead
    path: Sequence[bytes]
    since: Sequence[bytes]
