"""Hands what waits in the outbox to the link: by class, at the pace and within the budget of `budget`.

1. Events first, then telemetry, samples when nothing else waits; on a metered link no samples. Last of all goes what is shown to
   who watches the device: it is no message of the outbox, nobody confirms it.
2. A backlog of telemetry is packed into few messages before it goes: windows stay as they are.
3. A message whose PUBACK does not come within LOST_S counts as arrived: the pace never waits for a lost one.
4. At most ON_THE_WAY messages of telemetry and samples wait for the server's own Ack: a server that falls behind holds its devices back
   by that, whatever the broker takes. What has none after RESEND_AFTER_S holds nothing up, it may be lost.
5. Two places of the link stay free for state and metadata.
6. A window that waits alone goes with QoS 0 at the first try: only the server's own Ack counts, and what has none after RESEND_AFTER_S goes
   again, with QoS 1 (ADR 0101). Backlogs, and the first message of a connection, go with QoS 1: then the broker can hold devices back.
"""

from collections.abc import Callable
from typing import Protocol

import msgspec

from edgefleet_agent.connection.budget import OVERHEAD_BYTES, Bucket, Pace, daily, fresh_pace
from edgefleet_agent.connection.outbox import RESEND_AFTER_S, Kind, Outbox, Waiting
from edgefleet_protocol.ids import DeviceId
from edgefleet_protocol.topics import Topics

PACK_FROM = 20
ON_THE_WAY = 16
LOST_S = RESEND_AFTER_S
KEPT_FREE = 2
SMALL_BYTES = 2_048
SMALL_TIMED = 16
_NEVER = float("inf")


class Sender(Protocol):
    """What the drain needs of the link."""

    @property
    def room(self) -> int:
        """How many QoS 1 messages it takes now."""
        ...

    def publish(self, topic: str, payload: bytes, qos: int) -> int | None:
        """Take a message; its mid, or None."""
        ...


class NextLive(Protocol):
    """Who has something to show."""

    def __call__(self, *, is_metered: bool) -> bytes | None:
        """Return what may go now, if anything."""
        ...


def _nothing() -> None:
    """Have no samples."""


class Sources(msgspec.Struct, frozen=True):
    """What is asked for more when the outbox has nothing.

    more_samples: puts the next sample into the outbox, if any. next_live: goes to `live_topic` whenever nothing else waits.
    """

    more_samples: Callable[[], object] = _nothing
    live_topic: str = ""
    next_live: NextLive | None = None


class OutboxSender:
    """Hands the outbox's messages to the link. `later` runs a callback after so many seconds."""

    def __init__(
        self,
        outbox: Outbox,
        link: Sender,
        topic_of: Callable[[Kind], str],
        monotonic_s: Callable[[], float],
        later: Callable[[float, Callable[[], None]], object],
        daily_bytes: int,
        sources: Sources | None = None,
    ) -> None:
        self._outbox = outbox
        self._link = link
        self._topic_of = topic_of
        self._now = monotonic_s
        self._later = later
        now = monotonic_s()
        self._budget: Bucket | None = daily(daily_bytes, now)
        self._pace: Pace = fresh_pace(now)
        self._bulk_mid: int | None = None
        self._small: dict[int, float] = {}
        self._is_new_link = True
        self._is_waiting = False
        self.is_metered = False
        self._sources = sources or Sources()
        self.bytes_out = 0

    @property
    def budget_left_bytes(self) -> int | None:
        """Return what may still be sent now; None without a budget."""
        return None if self._budget is None else int(self._budget.now(self._now()).level)

    def status(self) -> dict[str, object]:
        """Return what waits, what was given up, and what the budget still allows, for `edge-agent status`."""
        box = self._outbox
        return {
            "messages": len(box),
            "bytes": box.size_bytes,
            "dropped": box.dropped,
            "waiting": {kind.name.lower(): box.waiting(kind) for kind in Kind},
            "dropped_by": dict(zip(("event", "telemetry", "sample"), box.dropped_by, strict=True)),
            "merged": box.merged,
            "metered": self.is_metered,
            "budget_left_bytes": self.budget_left_bytes,
        }

    def relinked(self) -> None:
        """The connection is another one, or gone: nothing is on its way."""
        self._outbox.resend_all()
        self._bulk_mid = None
        self._is_new_link = True
        self._small.clear()
        self._pace = self._pace.lost(self._now())

    def published(self, mid: int) -> None:
        """The broker has taken a message."""
        handed_s = self._small.pop(mid, None)
        if handed_s is not None:
            self._pace = self._pace.small_arrived(max(1e-6, self._now() - handed_s))
        if mid == self._bulk_mid:
            self._bulk_mid = None
            self._pace = self._pace.arrived(self._now())

    def pump(self) -> None:
        """Hand over what may go now, and come back by itself when more may."""
        now = self._now()
        flying = self._pace.flying_since_s
        if flying is not None and now - flying >= LOST_S:
            self._bulk_mid = None
            self._pace = self._pace.arrived(now)
        waits_s = self._events(now)
        if waits_s != _NEVER:
            waits_s = min(waits_s or _NEVER, self._bulk(now))
        if waits_s < LOST_S and not self._is_waiting and self._link.room > KEPT_FREE:
            self._is_waiting = True
            self._later(max(waits_s, 0.001), self._again)

    def _again(self) -> None:
        self._is_waiting = False
        self.pump()

    def _events(self, now: float) -> float:
        """Send events; return 0 when none is left that could go, else how long to wait."""
        for waiting in self._outbox.due(now, self._link.room - KEPT_FREE, (Kind.EVENT,)):
            wait_s = self._pace.event_wait_s(now)
            if wait_s > 0.0:
                return wait_s
            if not self._hand_over(waiting, now, bulk=False):
                return _NEVER
        return 0.0

    def _bulk(self, now: float) -> float:
        """Send one message of telemetry or one sample; return how long until the next may go, infinite when nothing waits."""
        if self._outbox.on_the_way(now) >= ON_THE_WAY:
            return _NEVER  # an Ack or the tick comes back here
        wait_s = self._pace.bulk_wait_s(now)
        if wait_s > 0.0 or self._link.room <= KEPT_FREE:
            return wait_s
        if self._budget is not None:
            self._budget = self._budget.now(now)
            if (broke_s := self._budget.wait_s()) > 0.0:
                self._live(now)  # it has a budget of its own
                return broke_s
        if self._outbox.waiting(Kind.TELEMETRY) > PACK_FROM:
            self._outbox.pack()
        kinds = [Kind.TELEMETRY]
        if not self.is_metered:
            self._sources.more_samples()
            kinds.append(Kind.SAMPLE)
        waiting = self._outbox.due(now, 1, kinds)
        if waiting:
            self._hand_over(waiting[0], now, bulk=True)
        else:
            self._live(now)
        return _NEVER  # the PUBACK, the next message or the tick comes back here

    def _hand_over(self, waiting: Waiting, now: float, *, bulk: bool) -> bool:
        is_alone = waiting.kind is Kind.TELEMETRY and self._outbox.waiting(Kind.TELEMETRY) == 1
        qos = 0 if is_alone and not self._is_new_link and not self._outbox.was_sent(waiting) else 1
        self._outbox.sent(waiting, now)
        mid = self._link.publish(self._topic_of(waiting.kind), waiting.payload, qos)
        if mid is None:
            self._outbox.unsent(waiting)
            return False
        self._is_new_link = False
        if bulk:
            self._bulk_mid = mid
        elif len(self._small) < SMALL_TIMED and len(waiting.payload) <= SMALL_BYTES:
            self._small[mid] = now
        self._handed(len(waiting.payload), now, bulk=bulk)
        return True

    def _live(self, now: float) -> None:
        live = self._sources.next_live
        payload = live(is_metered=self.is_metered) if live is not None else None
        if payload is not None and (mid := self._link.publish(self._sources.live_topic, payload, 1)) is not None:
            self._bulk_mid = mid
            self._handed(len(payload), now, bulk=True, is_charged=False)  # it paid from its own budget

    def _handed(self, payload_bytes: int, now: float, *, bulk: bool, is_charged: bool = True) -> None:
        self._pace = self._pace.handed(now, bulk=bulk)
        size = payload_bytes + OVERHEAD_BYTES
        self.bytes_out += size
        if self._budget is not None and is_charged:
            self._budget = self._budget.now(now).less(size)


def topic_chooser(topics: Topics, device: DeviceId) -> Callable[[Kind], str]:
    """Return which topic a class of messages goes to."""
    chosen = {
        Kind.EVENT: topics.event(device),
        Kind.TELEMETRY: topics.telemetry(device),
        Kind.SAMPLE: topics.sample(device),
    }
    return lambda kind: chosen[kind]
