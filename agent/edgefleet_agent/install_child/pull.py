"""Which leaves to ask for next. Pure: no socket, no clock; `now_s` is an argument (`mqtt.md` §6).

1. A leaf is had, in flight, or missing. A request names missing leaves only and puts the first `credit × per message` in flight.
2. Topped up at half of the window, so that the line never runs dry; what is in flight longer than the timeout is missing again.
3. A newer request replaces the older one at the server, and one topic keeps its order: so the first data of request r says that
   whatever is still in flight from requests before r will not come. It is missing again at once, without a timeout.
4. The window halves on a timeout and grows by one per clean window, 1 … 32 messages.
"""

from dataclasses import dataclass, field

from edgefleet_protocol.blocks import MAX_CREDIT, MAX_MESSAGE_LEAVES, MAX_REQUEST_LEAVES

MAX_LEAF_TRIES = 5


@dataclass(frozen=True, slots=True)
class Ask:
    """One request: its id, leaves rising within 256 of the first, how many a message, how many messages may come at once."""

    req_id: int
    wanted: list[int]
    leaves_per_message: int
    credit: int


@dataclass(frozen=True, slots=True)
class Flight:
    """When and by which request a leaf was asked for."""

    since_s: float
    req_id: int


@dataclass(slots=True)
class Puller:
    """State of one blob's pull. timeout_s: after which an unanswered leaf is asked for again."""

    count: int
    credit: int
    timeout_s: float
    req_id: int = 1
    have: set[int] = field(default_factory=set)
    in_flight: dict[int, Flight] = field(default_factory=dict)
    bad_tries: dict[int, int] = field(default_factory=dict)
    leaves_per_message: int = MAX_MESSAGE_LEAVES
    clean: int = 0
    hold_until_s: float = 0.0
    _low: int = 0

    @property
    def is_done(self) -> bool:
        """Whether every leaf is had."""
        return len(self.have) == self.count

    def got(self, leaf: int) -> None:
        """Note a leaf that arrived whole."""
        self.in_flight.pop(leaf, None)
        self.have.add(leaf)
        self.clean += 1
        if self.clean >= self.credit * self.leaves_per_message:
            self.clean = 0
            self.credit = min(self.credit + 1, MAX_CREDIT)

    def heard(self, req_id: int) -> None:
        """Note data of a request: what older ones still owe was replaced at the server. 0 = fan-out, says nothing."""
        for leaf in [leaf for leaf, flight in self.in_flight.items() if 0 < flight.req_id < req_id]:
            del self.in_flight[leaf]

    def damaged(self, leaf: int) -> bool:
        """Note a leaf that failed its hash; True when it has been damaged too often to go on."""
        self.in_flight.pop(leaf, None)
        self.bad_tries[leaf] = self.bad_tries.get(leaf, 0) + 1
        return self.bad_tries[leaf] >= MAX_LEAF_TRIES

    def lost(self, leaves: set[int]) -> None:
        """Note leaves that were had but turned out wrong on the disk."""
        self.have -= leaves
        self._low = 0

    def relink(self) -> None:
        """Forget what is in flight: the connection it was on is gone."""
        self.in_flight.clear()

    def busy(self, now_s: float, retry_s: float) -> None:
        """Wait before the next request: the server is busy."""
        self.in_flight.clear()
        self.hold_until_s = now_s + retry_s

    def too_big(self) -> bool:
        """Make messages smaller; False when they cannot be."""
        self.in_flight.clear()
        if self.leaves_per_message == 1:
            return False
        self.leaves_per_message //= 2
        return True

    def expire(self, now_s: float) -> None:
        """Give up on what is in flight too long."""
        late = [leaf for leaf, flight in self.in_flight.items() if now_s - flight.since_s >= self.timeout_s]
        if late:
            for leaf in late:
                del self.in_flight[leaf]
            self.credit = max(1, self.credit // 2)
            self.clean = 0

    def next_ask(self, now_s: float) -> Ask | None:
        """Return the next request, None when the window is full enough, nothing is missing, or the server asked to wait."""
        window = self.credit * self.leaves_per_message
        if now_s < self.hold_until_s or len(self.in_flight) * 2 > window:
            return None
        room = window - len(self.in_flight)
        while self._low < self.count and self._low in self.have:
            self._low += 1
        wanted: list[int] = []
        for leaf in range(self._low, self.count):
            if leaf in self.have or leaf in self.in_flight:
                continue
            if len(wanted) >= room or (wanted and leaf - wanted[0] >= MAX_REQUEST_LEAVES):
                break
            wanted.append(leaf)
        if not wanted:
            return None
        req_id = self.req_id
        self.req_id = req_id % 0xFFFFFFFF + 1
        for leaf in wanted:
            self.in_flight[leaf] = Flight(now_s, req_id)
        messages = -(-len(wanted) // self.leaves_per_message)
        return Ask(req_id, wanted, self.leaves_per_message, max(1, min(messages, MAX_CREDIT)))

    def wait_s(self, now_s: float) -> float:
        """Return how long to wait for an answer before looking again."""
        if self.in_flight:
            oldest = min(flight.since_s for flight in self.in_flight.values())
            return max(0.01, oldest + self.timeout_s - now_s)
        return max(0.01, self.hold_until_s - now_s)
