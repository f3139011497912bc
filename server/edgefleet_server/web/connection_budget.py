"""Which connections of one listener may stay open: caps, and how long a peer may take for the head, the body and the answer.

Pure: the table knows connections by their peer (host and port), `now_s` is monotonic time. `process.listener` does what it says.

1. A connection *waits* until the head of a request is there (TLS handshake included), and again after each answer. A connection that has
   waited `head_s` is overdue; after an answer `idle_s` more.
2. While the body is read, the time that the server waited for bytes counts: after `grace_s` they must have come at `bytes_per_s`.
3. While the answer is sent, no piece of it may be stuck for `stall_s`.
4. A new connection above a cap takes the place of the one that has waited longest: of its own address for the cap per address, of the
   address with the most connections for the cap of all. Where none waits, the new one is refused. So half-sent requests keep nobody
   out, not even behind the same address.

IPv6 addresses count by their /64, which is what one customer of a provider has.
"""

import ipaddress
from collections import Counter
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Final

Peer = tuple[str, int]
NO_CAP: Final = 0


class Ending(StrEnum):
    """Why a connection was ended or refused: a label of the metric, so never renamed."""

    HEAD = "head_timeout"
    BODY = "body_too_slow"
    STALLED = "answer_not_read"
    REPLACED = "replaced"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Budget:
    """What one listener has. per_address: NO_CAP where one address stands for many clients, as that of a proxy does."""

    total: int
    per_address: int
    head_s: float = 10.0
    idle_s: float = 5.0
    grace_s: float = 10.0
    bytes_per_s: float = 500.0
    stall_s: float = 60.0


class Connection:
    """One open connection. Times are monotonic seconds."""

    __slots__ = ("address", "bytes", "deadline_s", "is_waiting", "read_from_s", "sent_from_s", "waited_s")

    def __init__(self, address: str, deadline_s: float) -> None:
        self.address = address
        self.is_waiting = True
        self.deadline_s = deadline_s
        self.bytes = 0
        self.waited_s = 0.0
        self.read_from_s: float | None = None
        self.sent_from_s: float | None = None

    def begin(self) -> None:
        """Note that the head of a request is there."""
        self.is_waiting, self.bytes, self.waited_s = False, 0, 0.0

    def reading(self, now_s: float) -> None:
        """Note that the server waits for a piece of the body."""
        self.read_from_s = now_s

    def read(self, length: int, now_s: float) -> None:
        """Note a piece of the body."""
        self.waited_s += now_s - (self.read_from_s if self.read_from_s is not None else now_s)
        self.bytes += length
        self.read_from_s = None


class ConnectionTable:
    """The open connections of one listener. Not thread-safe: it belongs to the listener's event loop."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self._open: dict[Peer, Connection] = {}
        self._waiting: dict[Peer, None] = {}  # in the order in which they began to wait
        self._by_address: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._open)

    def of(self, peer: Peer) -> Connection | None:
        """Return the connection of a peer."""
        return self._open.get(peer)

    def admit(self, peer: Peer, now_s: float) -> tuple[bool, Peer | None]:
        """Take a new connection; return whether it may stay, and the connection to end for it."""
        address = counted_address(peer[0])
        replaced: Peer | None = None
        if self.budget.per_address != NO_CAP and self._by_address[address] >= self.budget.per_address:
            replaced = self._longest_waiting(address)
        elif len(self._open) >= self.budget.total:
            replaced = self._longest_waiting(self._most_common_waiting())
        else:
            self._add(peer, address, now_s)
            return True, None
        if replaced is None:
            return False, None
        self.forget(replaced)
        self._add(peer, address, now_s)
        return True, replaced

    def rest(self, peer: Peer, now_s: float) -> None:
        """Note that an answer is out: the connection waits for the next head."""
        connection = self._open.get(peer)
        if connection is None:
            return
        connection.is_waiting, connection.read_from_s, connection.sent_from_s = True, None, None
        connection.deadline_s = now_s + self.budget.idle_s + self.budget.head_s
        self._waiting[peer] = None

    def begin(self, peer: Peer) -> Connection | None:
        """Note that the head of a request is there; None for a connection that was ended already."""
        connection = self._open.get(peer)
        if connection is not None:
            connection.begin()
            self._waiting.pop(peer, None)
        return connection

    def forget(self, peer: Peer) -> None:
        """Remove a connection that is closed, or about to be."""
        connection = self._open.pop(peer, None)
        if connection is None:
            return
        self._waiting.pop(peer, None)
        self._by_address[connection.address] -= 1
        if self._by_address[connection.address] <= 0:
            del self._by_address[connection.address]

    def overdue(self, now_s: float) -> list[tuple[Peer, Ending]]:
        """Return the connections whose time is over, and what took too long."""
        found = []
        for peer, connection in self._open.items():
            ending = _ending(connection, self.budget, now_s)
            if ending is not None:
                found.append((peer, ending))
        return found

    def _add(self, peer: Peer, address: str, now_s: float) -> None:
        self.forget(peer)
        self._open[peer] = Connection(address, now_s + self.budget.head_s)
        self._waiting[peer] = None
        self._by_address[address] += 1

    def _longest_waiting(self, address: str | None) -> Peer | None:
        return next((peer for peer in self._waiting if self._open[peer].address == address), None)

    def _most_common_waiting(self) -> str | None:
        """Return the address with the most connections, of those that have one that waits."""
        addresses = {self._open[peer].address for peer in self._waiting}
        return max(addresses, key=lambda address: self._by_address[address], default=None)


def _ending(connection: Connection, budget: Budget, now_s: float) -> Ending | None:
    if connection.is_waiting:
        return Ending.HEAD if now_s >= connection.deadline_s else None
    if connection.sent_from_s is not None and now_s - connection.sent_from_s >= budget.stall_s:
        return Ending.STALLED
    if connection.read_from_s is not None:
        waited_s = connection.waited_s + now_s - connection.read_from_s
        if waited_s >= budget.grace_s + connection.bytes / budget.bytes_per_s:
            return Ending.BODY
    return None


@lru_cache(maxsize=1024)
def counted_address(host: str) -> str:
    """Return what connections of a host are counted by: the address, of IPv6 its /64, of IPv4 within IPv6 the IPv4 address."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv4Address):
        return host
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((int(address) >> 64 << 64, 64)))
