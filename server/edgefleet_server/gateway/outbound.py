"""Sends what devices should know: retained desired documents, the repository head, the hold, acknowledgements.

Rules:
1. On every connect everything retained is published again from the database: a broker may have lost all of it. A database
   that is away just then is asked again.
2. A document or hold newly signed by this process is on its way at once (listener); one signed by another process is found
   by looking at the database every POLL_S, less often after a long look that found nothing. Head and hold go before any document.
3. An older `gen` is never published after a newer one of the same device.
4. One thread publishes: order is its queue.
5. An acknowledgement names the shards only while the newest head and hold that this process read are in all of them (ADR 0171).
"""

import contextlib
import logging
import math
import queue
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Final, Protocol

import msgspec
from sqlalchemy.exc import SQLAlchemyError

from edgefleet_protocol.clock import Clock
from edgefleet_protocol.errors import EdgefleetError
from edgefleet_protocol.ids import DeviceId
from edgefleet_protocol.messages import Ack, Downlink, encode
from edgefleet_protocol.shards import SHARD_COUNT
from edgefleet_protocol.topics import Topics

POLL_S: Final = 1.0
PATIENCE: Final = 20
LONGEST_S: Final = 10.0
"""A look that found nothing is followed by so many times as long without one, at most LONGEST_S: while this process signs thousands a
second, each look reads them all only to see that they are on their way."""
SHARDS: Final = tuple(f"{one:02x}" for one in range(SHARD_COUNT))
OVERLAP: Final = timedelta(seconds=10)
MAX_WAITING: Final = 100_000

_log = logging.getLogger(__name__)


class Signed(Protocol):
    """A signed desired document."""

    @property
    def device(self) -> DeviceId:
        """Return whom it is for."""
        ...

    @property
    def gen(self) -> int:
        """Return its generation."""
        ...

    @property
    def envelope(self) -> bytes:
        """Return its bytes."""
        ...


class Sources(Protocol):
    """Where the truth is read from."""

    def all_desired(self) -> Iterable[Signed]:
        """Return every live device's document."""
        ...

    def desired_changed_since(self, since: datetime, known: Mapping[DeviceId, int]) -> Sequence[Signed]:
        """Return documents signed at or after a moment, of a higher gen than is known of the device."""
        ...


Publish = Callable[[str, bytes, int, bool], bool]
"""topic, payload, QoS, retain -> whether it was taken; blocks while there is no room."""


class Outbound:
    """One thread that publishes. Thread-safe; the `send_…` methods return at once."""

    def __init__(
        self,
        topics: Topics,
        sources: Sources,
        repo_head: Callable[[], bytes],
        hold: Callable[[], bytes | None],
        publish: Publish,
        clock: Clock,
    ) -> None:
        """Wire the parts; `start` runs the thread. hold: returns the signed hold, None when there never was one."""
        self._topics = topics
        self._head_topics = (topics.repo_head(), *(topics.shard("head", one) for one in SHARDS))
        self._hold_topics = (topics.hold(), *(topics.shard("hold", one) for one in SHARDS))
        self._sources = sources
        self._repo_head = repo_head
        self._hold_envelope = hold
        self._publish = publish
        self._clock = clock
        self._queue: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        self._published: dict[DeviceId, int] = {}
        self._queued: dict[DeviceId, int] = {}
        self._shared_at_s = -math.inf
        self._head = b""
        self._hold = b""
        self._is_sharded = False
        self._looked_at = clock.now()
        self._look_at_s = clock.monotonic_s() + POLL_S
        self._lock = threading.Lock()
        self._is_up = False
        self._owes_everything = False
        self._is_stopping = False
        self._thread = threading.Thread(target=self._run, name="gateway-outbound", daemon=True)
        self.published = 0

    def start(self) -> None:
        """Run the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread after the message it is at."""
        self._queue.put(self._end)
        if self._thread.is_alive():
            self._thread.join(timeout=10)

    def send_everything(self) -> None:
        """Publish all that is retained: the broker connection is new."""
        self._queue.put(self._publish_everything)

    def send_shared(self) -> None:
        """Publish the head and the hold if they are new. Documents of the same transaction come after them either way."""
        self._queue.put(self._publish_shared)

    def send_desired(self, documents: Sequence[Signed], *, again: bool = False) -> None:
        """Publish documents; `again` also those published before, because the device reported that it lacks them."""
        if self._queue.qsize() < MAX_WAITING:
            with self._lock:
                self._queued.update((one.device, one.gen) for one in documents)
            self._queue.put(partial(self._publish_queued, tuple(documents), self._clock.monotonic_s(), again=again))

    def send_ack(self, device: DeviceId, ack: Ack) -> None:
        """Tell a device what was stored."""
        if self._queue.qsize() < MAX_WAITING:
            self._queue.put(partial(self._publish_ack, device, ack))

    def clear(self, device: DeviceId) -> None:
        """Remove a revoked device's retained document."""
        self._queue.put(partial(self._clear, device))

    def _run(self) -> None:
        while not self._is_stopping:
            with contextlib.suppress(queue.Empty):
                self._attempt(self._queue.get(timeout=POLL_S))
            began_s = self._clock.monotonic_s()
            if began_s >= self._look_at_s:
                self._look_at_s = began_s + POLL_S
                self._attempt(self._look_for_changes)

    def _attempt(self, work: Callable[[], object]) -> None:
        try:
            work()
        except (EdgefleetError, SQLAlchemyError, OSError) as error:
            _log.warning("outbound failed", extra={"reason": f"{type(error).__name__}: {error}"})
        except Exception:  # noqa: BLE001  # the outermost loop of this thread: a bug in one message must not silence all devices
            _log.exception("outbound failed")

    def _end(self) -> None:
        self._is_stopping = True

    def _clear(self, device: DeviceId) -> None:
        self._publish(self._topics.desired(device), b"", 1, True)
        self._published.pop(device, None)

    def _publish_ack(self, device: DeviceId, ack: Ack) -> None:
        # QoS 0: what is not acknowledged is sent again and counts once, and a day of PUBACKs costs a device 10 KB (ADR 0045)
        said = msgspec.structs.replace(ack, shards=SHARD_COUNT) if self._is_sharded else ack
        self._publish(self._topics.dn_meta(device), encode(Downlink(ack=said)), 0, False)

    def _publish_queued(self, documents: Sequence[Signed], queued_at_s: float, *, again: bool = False) -> None:
        """Publish what waited its turn; from then on the look for changes finds what could not be sent."""
        try:
            if queued_at_s >= self._shared_at_s:  # else head and hold were read after this was committed, and are out
                self._publish_shared()
            self._publish_documents(documents, again=again)
        finally:
            with self._lock:
                for one in documents:
                    if self._queued.get(one.device) == one.gen:
                        del self._queued[one.device]

    def _publish_documents(self, documents: Sequence[Signed], *, again: bool = False) -> None:
        """Publish documents, after the head: one may name a bundle that only the new head leads to."""
        for document in documents:
            self._publish_desired(document, again=again)

    def _publish_everything(self) -> None:
        self._published.clear()
        self._head, self._hold, self._shared_at_s, self._is_sharded = b"", b"", -math.inf, False
        self._is_up = self._owes_everything = True
        self._looked_at = self._clock.now()
        self._publish_shared()
        for document in self._sources.all_desired():
            if not self._publish_desired(document):
                break  # the connection is gone; the next one begins again
        self._owes_everything = False

    def _look_for_changes(self) -> None:
        """Publish what another process signed, and a new head. The overlap covers transactions that committed after a later one."""
        if not self._is_up:
            return
        if self._owes_everything:
            self._publish_everything()
            return
        now = self._clock.now()
        since = self._looked_at - OVERLAP
        began_s = self._clock.monotonic_s()
        with self._lock:
            known = self._published | self._queued  # what waits its turn is not read again, only to be sent twice
        found = self._sources.desired_changed_since(since, known)
        if not found:
            ended_s = self._clock.monotonic_s()
            self._look_at_s = max(self._look_at_s, ended_s + min(PATIENCE * (ended_s - began_s), LONGEST_S))
        self._publish_shared()
        self._publish_documents(found)
        self._looked_at = now

    def _publish_shared(self) -> None:
        began_s = self._clock.monotonic_s()
        head = self._repo_head()
        if head != self._head and self._publish_to_all(self._head_topics, head):
            self._head = head
        hold = self._hold_envelope()
        if hold is not None and hold != self._hold and self._publish_to_all(self._hold_topics, hold):
            self._hold = hold
        self._is_sharded = head == self._head and hold in (None, self._hold)
        if self._is_sharded:
            self._shared_at_s = began_s

    def _publish_to_all(self, topics: Sequence[str], payload: bytes) -> bool:
        """Publish to the shared topic and to its shards; False, and it is published to all of them once more, if one did not take it."""
        return all(self._publish(topic, payload, 1, True) for topic in topics)

    def _publish_desired(self, document: Signed, *, again: bool = False) -> bool:
        """Publish a document unless this or a newer one is out; return False when the connection is gone."""
        out = self._published.get(document.device, 0)
        if document.gen < out or (document.gen == out and not again):
            return True
        if not self._publish(self._topics.desired(document.device), document.envelope, 1, True):
            return False
        self._published[document.device] = document.gen
        self.published += 1
        return True
