"""A line in virtual time between one `Puller` and a server: latency, bandwidth, loss, a stall. What arrived is counted.

The server answers at once and all goes to the broker, which is the worst case for what is asked for twice: nothing can be called back.
"""

import heapq
import random
from dataclasses import dataclass, field

from edgefleet_agent.verifier.block_scheduler import Ask, BlockScheduler, RoundTrip
from edgefleet_protocol.blocks import LEAF_BYTES, BlockRequest
from edgefleet_server.gateway.responder import runs_of

LONGEST_S = 100_000.0


@dataclass
class Line:
    """One line. latency_s: one way. lose: chance from 0 to 1, of requests and of answers. stall_s: (from, to), nothing arrives between."""

    count: int
    latency_s: float = 0.01
    bytes_per_s: float = 1e9
    lose: float = 0.0
    stall_s: tuple[float, float] = (0.0, 0.0)
    seed: int = 0
    takes_repeats: bool = True
    puller: BlockScheduler = field(init=False)
    taken_leaves: int = 0
    probes: int = 0
    asks: int = 0
    repeats: int = 0
    now_s: float = 0.0

    def __post_init__(self) -> None:
        """Make the puller, which knows how long a small file took."""
        self.puller = BlockScheduler(self.count, 8, line=RoundTrip().seen(2 * self.latency_s))
        self._rng = random.Random(self.seed)
        self._events: list[tuple[float, int, int, list[int]]] = []
        self._free_s = 0.0
        self._n = 0
        self._taken = 0

    def run(self) -> "Line":
        """Pull everything; returns itself. Fails when that does not end."""
        while not self.puller.is_done:
            self.puller.expire(self.now_s)
            while (ask := self.puller.next_ask(self.now_s)) is not None:
                self._ask(ask)
            until_s = self.now_s + self.puller.wait_s(self.now_s)
            if self._events and self._events[0][0] <= until_s:
                self.now_s, _, req_id, leaves = heapq.heappop(self._events)
                self._arrive(req_id, leaves)
            else:
                self.now_s = until_s
            assert self.now_s < LONGEST_S, "it never ends"
        return self

    @property
    def extra_leaves(self) -> int:
        """Leaves that arrived for nothing, those of answers still on their way included."""
        return self.taken_leaves + sum(len(leaves) for *_, leaves in self._events) - self.count

    def _ask(self, ask: Ask) -> None:
        is_new = not ask.repeats
        self.asks += is_new
        self.repeats += not is_new
        self.probes += is_new and not self.puller.is_measured
        if self._rng.random() < self.lose:
            return
        arrived_s = self._clear_of_the_stall(self.now_s + self.latency_s)
        if self.takes_repeats and ask.req_id - ask.repeats <= self._taken < ask.req_id:
            return
        self._taken = ask.req_id
        request = BlockRequest(ask.req_id, bytes(8), tuple(ask.wanted), ask.leaves_per_message, ask.credit)
        for first, count in runs_of(request, self.count):
            if self._rng.random() < self.lose:
                continue
            self._free_s = max(self._free_s, arrived_s) + count * LEAF_BYTES / self.bytes_per_s
            self._n += 1
            when_s = self._clear_of_the_stall(self._free_s + self.latency_s)
            heapq.heappush(self._events, (when_s, self._n, ask.req_id, list(range(first, first + count))))

    def _arrive(self, req_id: int, leaves: list[int]) -> None:
        self.taken_leaves += len(leaves)
        self.puller.heard(req_id, self.now_s)
        for leaf in leaves:
            if leaf not in self.puller.have:
                self.puller.got(leaf)

    def _clear_of_the_stall(self, when_s: float) -> float:
        begins_s, ends_s = self.stall_s
        return ends_s if begins_s <= when_s < ends_s else when_s
