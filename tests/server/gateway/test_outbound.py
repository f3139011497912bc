"""The outbound side without a broker: in which order things are said."""

import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import pairwise
from typing import NamedTuple

import pytest
from sqlalchemy.exc import OperationalError

from edgefleet_protocol.ids import DeviceId, TenantId
from edgefleet_protocol.topics import Topics
from edgefleet_server.clock import SystemClock
from edgefleet_server.gateway import outbound as module
from edgefleet_server.gateway.outbound import SHARDS, Outbound
from tests.broker.client import eventually

TOPICS = Topics(TenantId("acme"))
ONE = DeviceId("d-one")


class Document(NamedTuple):
    """A signed document."""

    device: DeviceId
    gen: int
    envelope: bytes


class OtherProcess:
    """What another process writes into the database: a new head and a document that needs it, in one transaction."""

    def __init__(self) -> None:
        self.head = b"head 1"
        self.documents: list[Document] = []
        self.old: list[Document] = []
        self.times_away = 0
        self.hold: bytes | None = None

    def sign(self) -> None:
        """Write both."""
        self.head, self.documents = b"head 2", [Document(ONE, 2, b"document 2")]

    def all_desired(self) -> Sequence[Document]:
        """Return what was signed long ago, when the database is there."""
        if self.times_away:
            self.times_away -= 1
            raise OperationalError("", {}, Exception())
        return self.old

    def desired_changed_since(self, since: datetime, known: Mapping[DeviceId, int]) -> Sequence[Document]:
        """Return what is new."""
        return [one for one in self.documents if one.gen > known.get(one.device, 0)]

    def hold_envelope(self) -> bytes | None:
        """Return the brake, if there is one."""
        return self.hold


def test_everything_is_said_also_when_the_database_was_away_at_the_connect(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "POLL_S", 0.01)
    said: list[str] = []
    database = OtherProcess()
    database.old, database.times_away = [Document(ONE, 7, b"document 7")], 2

    def publish(topic: str, _payload: bytes, _qos: int, _retain: bool) -> bool:
        said.append(topic)
        return True

    outbound = Outbound(TOPICS, database, lambda: database.head, database.hold_envelope, publish, SystemClock())
    outbound.start()
    outbound.send_everything()
    eventually(lambda: TOPICS.desired(ONE) in said, "the document")
    outbound.stop()
    assert said.count(TOPICS.desired(ONE)) == 1


@pytest.mark.parametrize("finds", [False, True])
def test_a_look_that_takes_long_and_finds_nothing_is_seldom(monkeypatch: pytest.MonkeyPatch, finds: bool) -> None:
    monkeypatch.setattr(module, "POLL_S", 0.01)
    monkeypatch.setattr(module, "PATIENCE", 20 if not finds else 100_000)
    looks: list[float] = []

    class Slow(OtherProcess):
        def desired_changed_since(self, since: datetime, known: Mapping[DeviceId, int]) -> Sequence[Document]:
            looks.append(time.monotonic())
            time.sleep(0.02)
            return [Document(ONE, len(looks), b"document")] if finds else []

    database = Slow()
    outbound = Outbound(TOPICS, database, lambda: database.head, database.hold_envelope, lambda *_: True, SystemClock())
    outbound.start()
    outbound.send_everything()
    eventually(lambda: len(looks) == 3, "three looks")
    outbound.stop()
    if not finds:
        assert all(after - before >= 20 * 0.02 for before, after in pairwise(looks))


@pytest.mark.parametrize("fails", ["no", "refused", "error"])
def test_a_look_passes_over_what_waits_its_turn_and_finds_what_could_not_be_sent(
    monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    monkeypatch.setattr(module, "POLL_S", 0.01)
    two, sent, knew = DeviceId("d-two"), [], []

    class Watched(OtherProcess):
        def desired_changed_since(self, since: datetime, known: Mapping[DeviceId, int]) -> Sequence[Document]:
            knew.append(dict(known))
            if len(knew) == 1:
                outbound.send_desired([Document(two, 5, b"document 5")])  # signed here while this looks
            return super().desired_changed_since(since, known)

    def publish(topic: str, _payload: bytes, _qos: int, _retain: bool) -> bool:
        sent.append(topic)
        if topic == TOPICS.desired(ONE) and sent.count(topic) == 1:
            if fails == "error":
                raise OSError("away")
            return fails == "no"
        return True

    database = Watched()
    database.documents = [Document(ONE, 3, b"document 3")]
    outbound = Outbound(TOPICS, database, lambda: database.head, database.hold_envelope, publish, SystemClock())
    outbound.start()
    outbound.send_everything()
    eventually(lambda: outbound._is_up, "the connect")
    outbound.send_desired(database.documents)
    eventually(lambda: sent.count(TOPICS.desired(ONE)) == (1 if fails == "no" else 2), "the document")
    eventually(lambda: TOPICS.desired(two) in sent, "the other one")
    outbound.stop()
    assert sent.count(TOPICS.desired(two)) == 1
    assert all(one.get(two, 5) == 5 for one in knew)
    assert outbound._queued == {}


def test_what_is_in_the_queue_is_known_to_the_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "POLL_S", 0.01)
    database = OtherProcess()
    database.documents = [Document(ONE, 3, b"document 3")]
    sent: list[str] = []

    def publish(topic: str, _payload: bytes, _qos: int, _retain: bool) -> bool:
        sent.append(topic)
        return True

    outbound = Outbound(TOPICS, database, lambda: database.head, database.hold_envelope, publish, SystemClock())
    outbound._is_up = True
    outbound.send_desired(database.documents)  # the thread does not run yet: it waits its turn
    outbound._look_for_changes()
    assert TOPICS.desired(ONE) not in sent
    outbound.start()
    eventually(lambda: TOPICS.desired(ONE) in sent, "its turn")
    outbound.stop()
    outbound._look_for_changes()
    assert sent.count(TOPICS.desired(ONE)) == 1


def test_the_head_goes_before_a_document_of_another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "POLL_S", 0.01)
    said: list[tuple[str, bytes]] = []
    other = OtherProcess()

    def publish(topic: str, payload: bytes, _qos: int, _retain: bool) -> bool:
        if "/stage/" not in topic:
            said.append((topic, payload))
        return True

    outbound = Outbound(TOPICS, other, lambda: other.head, other.hold_envelope, publish, SystemClock())
    outbound.start()
    outbound.send_everything()
    eventually(lambda: said, "the first head")
    other.sign()
    eventually(lambda: len(said) == 3, "what the other process signed")
    outbound.stop()
    assert said == [
        (TOPICS.repo_head(), b"head 1"),
        (TOPICS.repo_head(), b"head 2"),
        (TOPICS.desired(ONE), b"document 2"),
    ]


def test_a_brake_goes_out_without_any_document_and_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "POLL_S", 3600.0)  # nothing is found by looking: only what is told goes out
    said: list[tuple[str, bytes]] = []
    database = OtherProcess()

    def publish(topic: str, payload: bytes, _qos: int, _retain: bool) -> bool:
        if "/stage/" not in topic:
            said.append((topic, payload))
        return True

    outbound = Outbound(TOPICS, database, lambda: database.head, database.hold_envelope, publish, SystemClock())
    outbound.start()
    outbound.send_everything()
    eventually(lambda: said, "the first head")
    database.hold = b"hold 1"
    outbound.send_shared()
    outbound.send_shared()
    outbound.send_desired([Document(ONE, 1, b"document 1")])
    eventually(lambda: len(said) == 3, "brake and document")
    outbound.stop()
    assert said[1:] == [(TOPICS.hold(), b"hold 1"), (TOPICS.desired(ONE), b"document 1")]


@pytest.mark.parametrize("at", [0, 1, 100, 256])
def test_a_hold_that_did_not_reach_all_its_topics_is_published_to_all_again_before_a_document(
    monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    monkeypatch.setattr(module, "POLL_S", 0.01)
    monkeypatch.setattr(module, "PATIENCE", 0)
    said: list[tuple[str, bytes]] = []
    database, failures = OtherProcess(), [at]
    wanted = [TOPICS.hold(), *(TOPICS.shard("hold", one) for one in SHARDS)]

    def publish(topic: str, payload: bytes, _qos: int, _retain: bool) -> bool:
        if failures and topic == wanted[failures[0]]:
            failures.clear()
            raise OSError("the broker is gone")
        said.append((topic, payload))
        return True

    outbound = Outbound(TOPICS, database, lambda: database.head, database.hold_envelope, publish, SystemClock())
    outbound.start()
    outbound.send_everything()
    eventually(lambda: (TOPICS.shard("head", "ff"), b"head 1") in said, "all heads")
    database.hold, database.documents = b"hold 1", [Document(ONE, 1, b"document 1")]
    outbound.send_shared()
    eventually(lambda: TOPICS.desired(ONE) in [topic for topic, _ in said], "the document")
    outbound.stop()
    before = [topic for topic, _ in said[: said.index((TOPICS.desired(ONE), b"document 1"))]]
    assert [topic for topic in before if "hold" in topic] == wanted[:at] + wanted
