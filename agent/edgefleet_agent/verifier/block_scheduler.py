"""Which leaves to ask for next, and when again. Pure: no socket, no clock; `now_s` is an argument (docs/protocol/blocks.md).

1. A leaf is had, in flight, or missing. A request names missing leaves only and puts the first `credit × per message` in flight.
2. Topped up at half of the window, so that the line never runs dry.
3. A newer request replaces the older one at the server, and one topic keeps its order: so the first data of request r says that
   whatever is still in flight from requests before r will not come. It is missing again at once, without a timeout.
4. A request of which nothing was heard is repeated soon, a few times: it may be lost, and a repeat that was not needed costs a few
   bytes, since the server does not answer what it has answered already (`blocks.md`).
5. Leaves are asked for again, which may bring them twice, only when nothing at all has come for as long as answers may take here:
   measured (RFC 6298), at least SHORTEST_S, and longer after many such waits in a row. An answer that comes after all is measured too.
6. What an answer takes is not known before the first one: the first request is for one leaf. What that took longer than a small
   file, each further leaf of a message takes too; where that is long, messages are made smaller. So a slow line is not filled with
   what is asked for again.
7. The window halves on a timeout, and is quartered when nothing of the newest request came: then all of it may be late. It grows by
   one per clean window, 1 … 32 messages.
"""

from dataclasses import dataclass, field
from math import inf

from edgefleet_protocol.blocks import MAX_CREDIT, MAX_MESSAGE_LEAVES, MAX_REPEATS, MAX_REQUEST_LEAVES

SMOOTHING = 1 / 8
SPREADING = 1 / 4
SPREADS = 4
UNKNOWN_S = 1.0
"""Before the first answer (RFC 6298, 2.1)."""
LONGEST_S = 60.0
"""RFC 6298 (2.5) asks for a bound of a minute or more."""


@dataclass(frozen=True, slots=True)
class RoundTrip:
    """The smoothed round trip and its mean deviation, learnt from answers (RFC 6298, 2); `smoothed_s` is None before the first one.

    No samples of retransmissions have to be left out (Karn's rule): each request has a number of its own, and its answer names it.
    """

    smoothed_s: float | None = None
    spread_s: float = 0.0

    def seen(self, sample_s: float) -> "RoundTrip":
        """Return the estimate with one more answer. sample_s: from the request to its first answer, at least 0."""
        if self.smoothed_s is None:
            return RoundTrip(sample_s, sample_s / 2)
        spread_s = (1 - SPREADING) * self.spread_s + SPREADING * abs(self.smoothed_s - sample_s)
        return RoundTrip((1 - SMOOTHING) * self.smoothed_s + SMOOTHING * sample_s, spread_s)

    def timeout_s(self, shortest_s: float) -> float:
        """Return after how long without an answer one is not to be expected any more, from `shortest_s` to a minute."""
        expected_s = UNKNOWN_S if self.smoothed_s is None else self.smoothed_s + SPREADS * self.spread_s
        return min(max(expected_s, shortest_s), LONGEST_S)


MAX_LEAF_TRIES = 5
SHORTEST_S = 1.0
"""RFC 6298 (2.4): what comes later than usual is far more often late than lost, below a second."""
SHORTEST_REPEAT_S = 0.1
"""As long as any answer of a small file takes on most lines; where answers take longer, repeats do."""
PATIENT_WAITS = 16
"""After so many waits in a row without an answer the next ones are twice as long. Fewer would be too few where most is lost: of
answers that are lost seven times in ten, one in 300 is after sixteen tries."""
SLOW_MESSAGE_S = 10.0
"""A message may take so long; smaller ones are asked for where it would be longer."""
MAX_SENT = 64 * (MAX_REPEATS + 1)
"""Requests whose time is remembered, to measure answers that come after all."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One request: its id, leaves rising within 256 of the first, how many a message, how many messages may come at once.

    repeats: as many ids before this one asked for the same.
    """

    req_id: int
    wanted: list[int]
    leaves_per_message: int
    credit: int
    repeats: int = 0


@dataclass(frozen=True, slots=True)
class Sent:
    """When a request was sent, None once it was measured, and the id of the request that it repeats, or its own."""

    at_s: float | None
    first_id: int


@dataclass(slots=True)
class BlockScheduler:
    """State of one blob's pull.

    timeout_s: the shortest wait before leaves are asked for again. line: what answers took so far. is_measured: whether by data of
    this server; else `line` is of small files, and only a start.
    """

    count: int
    credit: int
    timeout_s: float = SHORTEST_S
    req_id: int = 1
    line: RoundTrip = field(default_factory=RoundTrip)
    is_measured: bool = False
    have: set[int] = field(default_factory=set)
    in_flight: dict[int, int] = field(default_factory=dict)
    """Leaf → id of the request that asked for it first."""
    bad_tries: dict[int, int] = field(default_factory=dict)
    leaves_per_message: int = MAX_MESSAGE_LEAVES
    clean: int = 0
    hold_until_s: float = 0.0
    silent_waits: int = 0
    _low: int = 0
    _given_up: dict[int, int] = field(default_factory=dict)
    """What was in flight when it was not expected any more; on its way after all once anything of its request comes."""
    _is_guess: bool = False
    """Whether `line` comes of the first leaf alone."""
    _sent: dict[int, Sent] = field(default_factory=dict)
    _newest: Ask | None = None
    """The newest request, as long as nothing of it was heard."""
    _newest_s: float = 0.0
    _flowed_s: float = 0.0
    """When data came last, or the newest request was made."""

    @property
    def is_done(self) -> bool:
        """Whether every leaf is had."""
        return len(self.have) == self.count

    def got(self, leaf: int) -> None:
        """Note a leaf that arrived whole."""
        self._landed(leaf)
        self.have.add(leaf)
        self.clean += 1
        if self.clean >= self.credit * self.leaves_per_message:
            self.clean = 0
            self.credit = min(self.credit + 1, MAX_CREDIT)

    def heard(self, req_id: int, now_s: float) -> None:
        """Note data of a request: what older ones still owe was replaced at the server. 0 = fan-out, says nothing."""
        if req_id == 0:
            return
        self._flowed_s = now_s
        self.silent_waits = 0
        sent = self._sent.get(req_id)
        if sent is None:  # from long ago, or from another connection
            return
        if sent.at_s is not None:
            self._measure(now_s - sent.at_s)
            self._sent[req_id] = Sent(None, sent.first_id)
        if self._newest is not None and sent.first_id == self._newest.req_id - self._newest.repeats:
            self._newest = None
        late = {leaf: by for leaf, by in self._given_up.items() if by == sent.first_id and leaf not in self.have}
        self._given_up = {leaf: by for leaf, by in self._given_up.items() if by > sent.first_id}
        self.in_flight = late | {leaf: by for leaf, by in self.in_flight.items() if by >= sent.first_id}

    def damaged(self, leaf: int) -> bool:
        """Note a leaf that failed its hash; True when it has been damaged too often to go on."""
        self._landed(leaf)
        self.bad_tries[leaf] = self.bad_tries.get(leaf, 0) + 1
        return self.bad_tries[leaf] >= MAX_LEAF_TRIES

    def lost(self, leaves: set[int]) -> None:
        """Note leaves that were had but turned out wrong on the disk."""
        self.have -= leaves
        self._low = 0

    def relink(self) -> None:
        """Forget what is in flight: the connection it was on is gone, and with it what was on its way."""
        self._forget()
        self._given_up.clear()
        self._sent.clear()

    def busy(self, now_s: float, retry_s: float) -> None:
        """Wait before the next request: the server is busy."""
        self._forget()
        self.hold_until_s = now_s + retry_s

    def too_big(self) -> bool:
        """Make messages smaller; False when they cannot be."""
        self._forget()
        if self.leaves_per_message == 1:
            return False
        self.leaves_per_message //= 2
        return True

    def expire(self, now_s: float) -> None:
        """Give up on what is in flight when nothing has come for too long."""
        if self.in_flight and now_s >= self._late_s():
            self.credit = max(1, self.credit // (2 if self._newest is None else 4))
            self._given_up = self.in_flight | self._given_up
            self._forget()
            self.silent_waits += 1
            self.clean = 0

    def next_ask(self, now_s: float) -> Ask | None:
        """Return the next request, None when the window is full enough, nothing is missing, or the server asked to wait."""
        if now_s < self.hold_until_s:
            return None
        if self._newest is not None:  # a newer one would replace it at the server before it was answered
            return self._repeat(self._newest, now_s)
        window = self.credit * self.leaves_per_message if self.is_measured else 1
        if len(self.in_flight) * 2 > window:
            return None
        wanted = self._missing(window - len(self.in_flight))
        if not wanted:
            return None
        messages = -(-len(wanted) // self.leaves_per_message)
        ask = Ask(self._next_id(), wanted, self.leaves_per_message, max(1, min(messages, MAX_CREDIT)))
        for leaf in wanted:
            self.in_flight[leaf] = ask.req_id
        self._newest_s = self._flowed_s = now_s
        return self._send(ask, ask.req_id, now_s)

    def wait_s(self, now_s: float) -> float:
        """Return how long to wait for an answer before looking again."""
        until_s = self.hold_until_s
        if self.in_flight:
            until_s = max(until_s, min(self._late_s(), self._repeat_s()))
        return max(0.01, until_s - now_s)

    # ---- what is asked

    def _missing(self, room: int) -> list[int]:
        while self._low < self.count and self._low in self.have:
            self._low += 1
        wanted: list[int] = []
        for leaf in range(self._low, self.count):
            if leaf in self.have or leaf in self.in_flight:
                continue
            if len(wanted) >= room or (wanted and leaf - wanted[0] >= MAX_REQUEST_LEAVES):
                break
            wanted.append(leaf)
        return wanted

    def _repeat(self, ask: Ask, now_s: float) -> Ask | None:
        if now_s < self._repeat_s():
            return None
        again = Ask(self._next_id(), ask.wanted, ask.leaves_per_message, ask.credit, ask.repeats + 1)
        return self._send(again, again.req_id - again.repeats, now_s)

    def _send(self, ask: Ask, first_id: int, now_s: float) -> Ask:
        self._newest = ask
        self._sent[ask.req_id] = Sent(now_s, first_id)
        if len(self._sent) > MAX_SENT:
            del self._sent[min(self._sent)]
        return ask

    def _next_id(self) -> int:
        req_id = self.req_id
        self.req_id = req_id % 0xFFFFFFFF + 1
        return req_id

    def _landed(self, leaf: int) -> None:
        self.in_flight.pop(leaf, None)
        if not self.in_flight:  # an answer that was given up brought what the newest request asks for
            self._newest = None

    def _forget(self) -> None:
        self.in_flight.clear()
        self._newest = None

    # ---- how long answers take

    def _measure(self, sample_s: float) -> None:
        if not self.is_measured:
            self.is_measured = True
            leaf_s = max(0.0, sample_s - (self.line.smoothed_s or 0.0))
            while self.leaves_per_message > 1 and sample_s + (self.leaves_per_message - 1) * leaf_s > SLOW_MESSAGE_S:
                self.leaves_per_message //= 2
            self.line = RoundTrip().seen(sample_s + (self.leaves_per_message - 1) * leaf_s)
            self._is_guess = True
            return
        self.line = (RoundTrip() if self._is_guess else self.line).seen(sample_s)
        self._is_guess = False

    def _late_s(self) -> float:
        """Return the moment from which on what is in flight is not expected any more."""
        return self._flowed_s + self._patient(self.line.timeout_s(self.timeout_s))

    def _repeat_s(self) -> float:
        """Return the moment at which the newest request is repeated; infinite when its answer would not be waited for."""
        ask = self._newest
        if ask is None or ask.repeats >= MAX_REPEATS:
            return inf
        answer_s = self._patient(self.line.timeout_s(SHORTEST_REPEAT_S))
        again_s = self._newest_s + answer_s * (ask.repeats + 1)
        return again_s if again_s + answer_s <= self._late_s() else inf

    def _patient(self, wait_s: float) -> float:
        return min(wait_s * 2.0 ** (self.silent_waits // PATIENT_WAITS), LONGEST_S)
