"""Takes what devices say: quotas, a fair queue, batches, services, acknowledgements.

Rules:
1. The MQTT callback only puts into the queue. What is beyond a device's quota, or finds no room, is dropped and counted against the
   device (`device_ledger`); devices send again what was not acknowledged.
2. A message that is none, or that speaks of another device than its topic, is counted and dropped; nothing else stops.
3. Events and telemetry are acknowledged after their transaction, never before; what is shown to who watches a device never is. When
   a batch is refused, its messages are stored one by one in their order, so that one of them costs nobody else anything.
4. Messages of unknown and revoked devices count for nothing.
5. Telemetry and events of a batch are one transaction each; presence, certificates and states one for each STORED_TOGETHER of them:
   their devices are locked meanwhile, and each state may sign a document (ADR 0156). Of one device's states only the newest counts.
6. The broker has a message acknowledged once it was stored, refused or dropped, so no more wait here than it hands over before: the
   queue holds as many of up to 1.5 KB each.
7. While the database does not answer, a batch waits for it: devices say a state once. What waits when the server stops is not
   acknowledged; the next server hears states and presence, which the broker retains, when it subscribes, and devices send the rest
   again. A database that answers, and fails at a batch again and again, refuses it.
"""

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import partial
from itertools import count
from typing import Any, Final, Protocol, TypeVar

from sqlalchemy.exc import InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from edgefleet_protocol.errors import BadMessageError, EdgefleetError
from edgefleet_protocol.ids import DeviceId, TenantId
from edgefleet_protocol.messages import Ack, Event, Presence, Sample, State, Telemetry, Watched, decode
from edgefleet_protocol.prediction_parts import REASON as PART_OF_LOG
from edgefleet_protocol.topics import Uplink, parse_uplink
from edgefleet_server.costing.model import Kind
from edgefleet_server.gateway.device_ledger import DeviceLedger, DropReport
from edgefleet_server.gateway.device_quota import Reason, Stored
from edgefleet_server.gateway.fair_queue import FairQueue
from edgefleet_server.gateway.outbound import Signed
from edgefleet_server.gateway.payload_check import MAX_EVENT_BYTES, storable

MAX_BATCH: Final = 1_000
MAX_BATCH_BYTES: Final = 2 * 1024 * 1024
STORED_TOGETHER: Final = 200
"""So many words of presence, or states, are one transaction."""
HALF_FULL: Final = 16_000
"""So many messages that wait are half of what the broker hands over before one is acknowledged (`mqtt.RECEIVE_MAXIMUM`)."""
PRESSED: Final = 10
"""After so many batches with more than half of the room taken devices are asked for longer windows: a moment's storm is none."""
STRETCH: Final = 4
KNOWN_TOPICS: Final = 50_000
DONE_AT_ONCE: Final = 256
"""So many messages that were dropped are acknowledged together, or what there is after each batch."""
GATHER_S: Final = 0.02
GATHER_MOST_S: Final = 0.1
REST: Final = 4
"""After a batch messages are gathered for so many times what storing it took, between GATHER_S and GATHER_MOST_S (ADR 0170)."""
RETRY_S: Final = 1.0
MAX_RETRIES: Final = 5
LOG_EVERY: Final = 60
LOST_LOOK_S: Final = 0.02
_NOBODY: Final = DeviceId("nobody")
_DATABASE_AWAY: Final = (OperationalError, InterfaceError, PoolTimeoutError)

Spoken = TypeVar("Spoken", State, Event, Telemetry, Sample, Watched)
Item = TypeVar("Item")

_log = logging.getLogger(__name__)


class Reports(Protocol):
    """Where the inbound side stores what devices say."""

    def take_states(self, states: Mapping[DeviceId, State]) -> Sequence[Signed]:
        """Store states; return the documents that devices lack."""
        ...

    def take_presences(self, words: Sequence[tuple[DeviceId, Presence]]) -> Mapping[DeviceId, str]:
        """Store whether devices are there; return the certificates that are to be noted."""
        ...

    def note_certificates(self, serials: Mapping[DeviceId, str]) -> None:
        """Note the certificates that devices connected with."""
        ...

    def take_events(self, events: Sequence[Event]) -> int:
        """Store events."""
        ...

    def note_limited(self, device_id: DeviceId, detail: Mapping[str, Any], row: int | None) -> int:
        """Write down what was dropped of a device, in the event `row` where there is one; return the event's id."""
        ...


class TelemetrySink(Protocol):
    """What the inbound side needs of telemetry."""

    def ingest(self, messages: Sequence[Telemetry]) -> int:
        """Store messages."""
        ...

    def ingest_samples(self, samples: Sequence[Sample]) -> int:
        """Store captured records."""
        ...

    def ingest_watched(self, messages: Sequence[Watched]) -> int:
        """Keep what watched devices show."""
        ...

    def refused(self) -> Mapping[str, int]:
        """Return how many impossible windows devices sent since this was asked last."""
        ...


class TrafficCounts(Protocol):
    """What counts the bytes that came."""

    def up(self, device: str, kind: Kind, model: str, size: int) -> None:
        """Count a message."""
        ...

    def up_windows(self, device: str, models: Sequence[str], size: int) -> None:
        """Count a message of telemetry, with the model of each of its windows."""
        ...

    def write_due(self) -> None:
        """Store what was counted, if it is time."""
        ...

    def write(self) -> None:
        """Store what was counted."""
        ...


class Answers(Protocol):
    """What the inbound side needs of the outbound side."""

    def send_desired(self, documents: Sequence[Signed], *, again: bool = False) -> None:
        """Publish documents."""
        ...

    def send_ack(self, device: DeviceId, ack: Ack) -> None:
        """Tell a device what was stored."""
        ...


@dataclass
class InboundCounters:
    """What came in since the start."""

    messages: int = 0
    bad: int = 0
    dropped: int = 0
    foreign: int = 0
    failed: int = 0


_Item = tuple[Uplink, bytes, int, int]
"""Where it came from, what it says, its receipt, how often the broker had been lost."""


class _Outcome(Enum):
    STORED = auto()
    REFUSED = auto()
    DATABASE_AWAY = auto()


@dataclass
class _Batch:
    states: dict[DeviceId, State] = field(default_factory=dict)
    presences: list[tuple[DeviceId, Presence]] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    telemetry: list[Telemetry] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    watched: list[Watched] = field(default_factory=list)

    def devices(self) -> set[DeviceId]:
        named = {DeviceId(event.device) for event in self.events}
        named |= {DeviceId(message.device) for message in self.telemetry}
        named |= {DeviceId(sample.device) for sample in self.samples}
        named |= {DeviceId(message.device) for message in self.watched}
        return named | self.states.keys() | {device for device, _ in self.presences}

    def keep(self, live: set[DeviceId]) -> None:
        self.states = {device: state for device, state in self.states.items() if device in live}
        self.presences = [(device, presence) for device, presence in self.presences if device in live]
        self.events = [event for event in self.events if event.device in live]
        self.telemetry = [message for message in self.telemetry if message.device in live]
        self.samples = [sample for sample in self.samples if sample.device in live]
        self.watched = [message for message in self.watched if message.device in live]


class Inbound:
    """One thread that stores what devices say. `put` is called on the MQTT thread."""

    def __init__(  # noqa: PLR0913, PLR0917  # what takes messages in, and what counts them
        self,
        tenant: TenantId,
        live_among: Callable[[Collection[DeviceId]], set[DeviceId]],
        reports: Reports,
        telemetry: TelemetrySink,
        answers: Answers,
        ledger: DeviceLedger,
        traffic: TrafficCounts,
        queue_bytes: int,
    ) -> None:
        """Wire the parts; `start` runs the thread. live_among: returns which of some devices are known and not revoked."""
        self._tenant = tenant
        self._live_among = live_among
        self._reports = reports
        self._telemetry = telemetry
        self._answers = answers
        self._ledger = ledger
        self._traffic = traffic
        self._acknowledge_broker: Callable[[Sequence[int]], None] = _nothing
        self._done: deque[int] = deque()
        self._topics: dict[str, Uplink] = {}
        self._pressed = 0
        self._queue: FairQueue[_Item] = FairQueue(queue_bytes, self._note_dropped)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="gateway-inbound", daemon=True)
        self._turns = self._broker = 0
        self._is_left = False
        self.counters = InboundCounters()

    @property
    def waiting(self) -> int:
        """How many messages wait to be stored."""
        return len(self._queue)

    def broker_lost(self, limit_s: float) -> None:
        """Let no message that waits say any more that a device is there: who is, nobody knows. Blocks until none is being stored."""
        self._broker += 1
        stored, pause = self._turns, threading.Event()
        for _ in range(int(limit_s / LOST_LOOK_S)):
            if self._turns != stored or not self._thread.is_alive():
                return
            pause.wait(LOST_LOOK_S)

    def acknowledge_by(self, acknowledge: Callable[[Sequence[int]], None]) -> None:
        """Let `acknowledge` take the receipts of messages that are done, on any thread: the broker hands over as many more."""
        self._acknowledge_broker = acknowledge

    def start(self) -> None:
        """Run the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Store what is queued, then end the thread."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout=10)

    def put(self, topic: str, payload: bytes, receipt: int = 0) -> None:
        """Take one message, or drop it when its device has spent its quota; never blocks. receipt: of the broker, 0: none."""
        try:
            uplink = self._topics.get(topic) or self._parsed(topic)
        except BadMessageError as error:
            self._note_bad(topic, error)
            self.done(receipt)
            return
        if self._ledger.admit(uplink.device, len(payload)):
            self._queue.put(uplink.device, (uplink, payload, receipt, self._broker), len(payload))
        else:
            self.counters.dropped += 1
            self.done(receipt)

    def _parsed(self, topic: str) -> Uplink:
        """Return what a topic names, and remember it: a device sends to the same few."""
        if len(self._topics) >= KNOWN_TOPICS:
            self._topics.clear()
        uplink = self._topics[topic] = parse_uplink(topic)
        return uplink

    def done(self, receipt: int) -> None:
        """Acknowledge a message soon, together with others. For the MQTT thread."""
        if receipt:
            self._done.append(receipt)
            if len(self._done) >= DONE_AT_ONCE:
                self._acknowledge_done()

    def _acknowledge_done(self, more: Sequence[int] = ()) -> None:
        receipts = list(more)
        while self._done:  # two threads take from it
            with contextlib.suppress(IndexError):
                receipts.append(self._done.popleft())
        if receipts:
            self._acknowledge_broker(receipts)

    def _note_dropped(self, device: DeviceId, item: _Item, payload_bytes: int, is_its_own: bool) -> None:
        self.counters.dropped += 1
        self.done(item[2])
        if is_its_own:  # where the queue is full of everybody's, the server is too slow and no device is to blame
            self._ledger.drop(device, Reason.QUEUE, payload_bytes)

    def _note_bad(self, topic: str, error: BadMessageError) -> None:
        self.counters.bad += 1
        _log.info("bad message", extra={"topic": topic[:200], "reason": error.message[:200]})

    def _run(self) -> None:
        took_s = 0.0
        while not (self._stopping.is_set() and not len(self._queue)):
            items = self._queue.gather(0.2, gather_s(took_s), MAX_BATCH, MAX_BATCH_BYTES)
            began_s = time.monotonic()
            is_half_full = len(self._queue) > HALF_FULL or self._queue.is_half_full
            self._pressed = self._pressed + 1 if is_half_full else 0
            try:
                if items:
                    self._store(self._sorted(items))
                self._report()
                self._traffic.write_due()
            except Exception:  # noqa: BLE001  # the outermost loop of this thread: a bug in one batch must not end ingest
                self.counters.failed += 1
                _log.exception("inbound batch failed")
            finally:
                self._turns += 1
                if not self._is_left:
                    self._acknowledge_done([receipt for _, _, receipt, _ in items if receipt])
                took_s = time.monotonic() - began_s if items else 0.0
        self._traffic.write()

    def _sorted(self, items: Sequence[_Item]) -> _Batch:
        batch = _Batch()
        for uplink, payload, _, broker in items:
            self.counters.messages += 1
            if broker != self._broker and uplink.leaf == "pres":
                continue
            try:
                self._sort_one(batch, uplink, payload)
            except BadMessageError as error:
                self._note_bad(f"{uplink.device}/{uplink.leaf}", error)
        return batch

    def _sort_one(self, batch: _Batch, uplink: Uplink, payload: bytes) -> None:
        if uplink.tenant != self._tenant:
            raise BadMessageError("message of another tenant")
        if not payload:  # an emptied retained message
            return
        device, size = uplink.device, len(payload)
        match uplink.leaf:
            case "state":
                batch.states[device] = storable(_own(device, decode(State, payload)))
            case "pres":
                batch.presences.append((device, storable(decode(Presence, payload))))
            case "ev":
                if size > MAX_EVENT_BYTES:
                    raise BadMessageError(f"an event of {size} bytes; the limit is {MAX_EVENT_BYTES}")
                event = storable(_own(device, decode(Event, payload)))
                if self._may_store(device, Stored.EVENTS, 1, size):
                    batch.events.append(event)
            case "tele":
                telemetry = _own(device, decode(Telemetry, payload))
                self._traffic.up_windows(device, [one.model for one in telemetry.windows], size)
                if self._may_store(device, Stored.WINDOWS, max(1, len(telemetry.windows)), size):
                    batch.telemetry.append(telemetry)
            case "cap":
                sample = _own(device, decode(Sample, payload))
                kind = Kind.PREDICTIONS if sample.reason == PART_OF_LOG else Kind.CAPTURES
                self._traffic.up(device, kind, sample.model, size)
                if self._may_store(device, Stored.CAPTURES, 1, size):
                    batch.samples.append(sample)
            case "log":
                batch.watched.append(_own(device, decode(Watched, payload)))
            case _:
                pass  # blocks and metadata go to the responder

    def _may_store(self, device: DeviceId, kind: Stored, n: int, size: int) -> bool:
        if self._ledger.store(device, kind, n, size):
            return True
        self.counters.dropped += 1
        return False

    def _report(self) -> None:
        """Write down what was dropped, each device in one event a day."""
        due = self._ledger.reports()
        live = self._live_among([one.device for one in due]) if due else ()
        for one in due:
            if one.device in live:
                self._try("what was dropped", partial(self._write, one))

    def _write(self, report: DropReport) -> None:
        self._ledger.written(report, self._reports.note_limited(report.device, report.detail, report.row))

    def _store(self, batch: _Batch) -> None:
        named = batch.devices()
        live: set[DeviceId] = set()
        if self._try("who is known", lambda: live.update(self._live_among(named))) is not _Outcome.STORED:
            return
        if live != named:
            self.counters.foreign += len(named - live)
            batch.keep(live)
        certificates: dict[DeviceId, str] = {}
        for words in _parts(batch.presences):
            self._stored("presence", words, lambda some: certificates.update(self._reports.take_presences(some)))
        for serials in _parts(list(certificates.items())):
            self._stored("certificate", serials, lambda some: self._reports.note_certificates(dict(some)))
        for states in _parts(list(batch.states.items())):
            self._stored("state", states, self._take_states)
        events = self._stored("events", batch.events, self._reports.take_events)
        telemetry = self._stored("telemetry", batch.telemetry, self._telemetry.ingest)
        for liar, n in self._telemetry.refused().items():
            self._ledger.drop(DeviceId(liar), Reason.IMPOSSIBLE, 0, n)
        samples = self._stored("samples", batch.samples, self._telemetry.ingest_samples)
        self._stored("what is watched", batch.watched, self._telemetry.ingest_watched)
        self._acknowledge(events, telemetry, samples)

    def _stored(self, what: str, messages: list[Item], store: Callable[[list[Item]], object]) -> list[Item]:
        """Store messages in one transaction, or each in its own when the whole is refused; return the stored."""
        if not messages:
            return []
        outcome = self._try(what, partial(store, messages))
        if outcome is _Outcome.REFUSED and len(messages) > 1:
            return [one for one in messages if self._try(what, partial(store, [one])) is _Outcome.STORED]
        return messages if outcome is _Outcome.STORED else []

    def _take_states(self, states: list[tuple[DeviceId, State]]) -> None:
        documents = self._reports.take_states(dict(states))
        if documents:
            self._answers.send_desired(documents, again=True)

    def _try(self, what: str, store: Callable[[], object]) -> _Outcome:
        """Run one transaction. A database that is away is waited for until the server stops; one that refuses is not asked again."""
        for attempt in count():
            try:
                store()
                return _Outcome.STORED
            except _DATABASE_AWAY as error:
                if attempt < MAX_RETRIES or attempt % LOG_EVERY == 0:
                    _log.warning("not stored", extra={"what": what, "attempt": attempt, "reason": type(error).__name__})
                if attempt + 1 >= MAX_RETRIES and self._answers_now():
                    break  # so it is this that it cannot store
                if self._stopping.wait(RETRY_S):
                    self._is_left = True
                    return _Outcome.DATABASE_AWAY
            except EdgefleetError as error:
                _log.warning("not stored", extra={"what": what, "code": error.code, "reason": error.message[:200]})
                self.counters.failed += 1
                return _Outcome.REFUSED
            # what a driver says of a value that it cannot carry comes unwrapped
            except (SQLAlchemyError, ValueError, TypeError, OverflowError) as error:
                _log.warning("not stored", extra={"what": what, "reason": type(error).__name__})
                self.counters.failed += 1
                return _Outcome.REFUSED
            except Exception:  # noqa: BLE001  # a bug that one message meets must cost the others of its batch nothing
                _log.exception("not stored", extra={"what": what})
                self.counters.failed += 1
                return _Outcome.REFUSED
        self.counters.failed += 1
        return _Outcome.REFUSED

    def _answers_now(self) -> bool:
        try:
            self._live_among([_NOBODY])
        except _DATABASE_AWAY:
            return False
        return True

    def _acknowledge(self, events: Sequence[Event], telemetry: Sequence[Telemetry], samples: Sequence[Sample]) -> None:
        boots: dict[tuple[str, str], tuple[list[int], list[int], list[int]]] = {}
        stored: tuple[Sequence[Event | Telemetry | Sample], ...] = (events, telemetry, samples)
        for kind, messages in enumerate(stored):
            for message in messages:
                boots.setdefault((message.device, message.boot_id), ([], [], []))[kind].append(message.seq)
        stretch = STRETCH if self._pressed > PRESSED else 0
        for (device, boot_id), seqs in boots.items():
            ack = Ack(boot_id=boot_id, events=seqs[0], telemetry=seqs[1], samples=seqs[2], stretch=stretch)
            self._answers.send_ack(DeviceId(device), ack)


def gather_s(took_s: float) -> float:
    """Return how long messages are gathered after a batch that took so long to store."""
    return min(GATHER_MOST_S, max(GATHER_S, REST * took_s))


def _parts(messages: list[Item]) -> Iterator[list[Item]]:
    """Yield messages in their order, STORED_TOGETHER at a time."""
    for start in range(0, len(messages), STORED_TOGETHER):
        yield messages[start : start + STORED_TOGETHER]


def _nothing(_receipts: Sequence[int]) -> None:
    """Acknowledge nothing: this broker needs none."""


def _own(device: DeviceId, message: Spoken) -> Spoken:
    if message.device != device:
        raise BadMessageError("the message speaks of another device than its topic")
    return message
