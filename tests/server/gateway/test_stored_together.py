"""Presence and states of many devices are one transaction: nothing is lost by it, on each kind of database (ADR 0156)."""

import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import OperationalError

from edgefleet_protocol.ids import DeviceId
from edgefleet_protocol.messages import ModelState, Phase, Presence, State, encode
from edgefleet_protocol.topics import Topics
from edgefleet_server.costing.traffic_ledger import TrafficLedger
from edgefleet_server.fleet.model import DeviceStatus
from edgefleet_server.fleet.reported.state_columns import device_columns
from edgefleet_server.gateway import inbound as inbound_side
from edgefleet_server.gateway.device_ledger import DeviceLedger
from edgefleet_server.gateway.inbound import GATHER_MOST_S, GATHER_S, Inbound, gather_s
from edgefleet_server.gateway.service import limits_of
from tests.agent.field import eventually
from tests.server.conftest import database_url  # noqa: F401  # a fixture
from tests.server.fleet.conftest import any_house  # noqa: F401  # a fixture
from tests.server.fleet.house import House
from tests.server.gateway.test_poison import Acks

DEVICES = 12
_KEPT = "SELECT id, is_online, conn_id, boot_id, state_seq, reported_gen, free_mb, absences, absence_count FROM fleet_device ORDER BY id"
_MODELS = "SELECT device_id, model, version, phase, assignment, error_class FROM fleet_model_state ORDER BY 1, 2"
_ABSENCES = "SELECT device_id, day, place, is_heard, times FROM fleet_absence ORDER BY 1, 2, 3"


class Crowd:
    """Some devices and the inbound side of their server."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.ids = [house.device().id for _ in range(DEVICES)]
        self.topics = Topics(house.settings.tenant)  # type: ignore[arg-type]
        self.receipts: list[int] = []
        self.acks = Acks()

    def inbound(self) -> Inbound:
        """Return an inbound side, as that of a new process."""
        house = self.house
        made = Inbound(
            self.topics.tenant,
            house.fleet.devices.live_among,
            house.fleet.receiver,
            house.telemetry,
            self.acks,
            DeviceLedger(limits_of(house.settings), house.clock),
            TrafficLedger(house.db, house.clock, house.registry, house.fleet.memberships.of),
            house.settings.uplink_queue_bytes,
        )
        made.acknowledge_by(self.receipts.extend)
        return made

    def take(self, messages: Sequence[tuple[str, bytes]]) -> Inbound:
        """Store messages as one batch of a new process."""
        made = self.inbound()
        for receipt, (topic, payload) in enumerate(messages, start=1):
            made.put(topic, payload, receipt)
        made.start()
        made.stop()
        return made

    def coming(self, conn: str = "c1") -> list[tuple[str, bytes]]:
        """Return what all devices say when they connect."""
        said = []
        for n, device in enumerate(self.ids):
            here = Presence(on=True, conn_id=conn, boot_id="b", ts=0)
            model = ModelState(model="m", phase=Phase.IDLE)
            facts: dict[str, Any] = {"disk_free_bytes": n << 20}
            state = State(device=device, gen=1, boot_id="b", seq=1, ts=0, models=[model], facts=facts)
            said += [(self.topics.presence(device), encode(here)), (self.topics.state(device), encode(state))]
        return said

    def rows(self) -> list[Any]:
        """Return what is kept of all devices."""
        with self.house.db.read() as session:
            return [list(session.execute(text(query))) for query in (_KEPT, _MODELS, _ABSENCES)]

    def online(self) -> int:
        """Return how many devices are there."""
        return sum(self.house.fleet.reader.device(one).status is DeviceStatus.ONLINE for one in self.ids)


@pytest.fixture
def crowd(any_house: House) -> Crowd:  # noqa: F811
    """On each kind of database."""
    return Crowd(any_house)


def test_a_crowd_that_comes_back_is_few_transactions(crowd: Crowd) -> None:
    commits: list[object] = []
    event.listen(crowd.house.db.engine, "commit", commits.append)
    crowd.take(crowd.coming())
    assert crowd.online() == DEVICES
    assert len(commits) < DEVICES, "each word was one before, and each state"
    assert sorted(crowd.receipts) == list(range(1, 2 * DEVICES + 1))


def test_together_leaves_what_one_after_another_does(crowd: Crowd, monkeypatch: pytest.MonkeyPatch) -> None:
    crowd.take(crowd.coming())
    gone = [
        (crowd.topics.presence(one), encode(Presence(on=False, conn_id="c1", boot_id="b", ts=0)))
        for one in crowd.ids[::2]
    ]
    crowd.take([*gone, *crowd.coming("c2")])
    together = crowd.rows()
    with crowd.house.db.session() as session:
        for table in ("fleet_absence", "fleet_model_state"):
            session.execute(text(f"DELETE FROM {table}"))  # names of tables
        session.execute(
            text(
                "UPDATE fleet_device SET is_online = NULL, conn_id = '', boot_id = '', state_seq = 0, reported_gen = 0, free_mb = NULL,"
                " offline_since = NULL, last_seen = NULL, absences = '[]', absence_day = 0, absence_count = 0, reported = NULL"
            )
        )
    monkeypatch.setattr(inbound_side, "STORED_TOGETHER", 1)
    crowd.take(crowd.coming())
    crowd.take([*gone, *crowd.coming("c2")])
    assert crowd.rows() == together


@pytest.mark.parametrize("failure", [ValueError("a value that no driver carries"), KeyError("a bug of ours")])
def test_one_that_cannot_be_stored_costs_only_itself(
    crowd: Crowd, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    bad = crowd.ids[7]

    def refuses(state: State, free_mb: int | None) -> dict[str, Any]:
        if state.device == bad:
            raise failure
        return device_columns(state, free_mb)

    monkeypatch.setattr("edgefleet_server.fleet.reported.ingest.device_columns", refuses)
    inbound = crowd.take(crowd.coming())
    assert crowd.online() == DEVICES
    stored = [row for row in crowd.rows()[0] if row[4] == 1]
    assert len(stored) == DEVICES - 1
    assert bad not in {row[0] for row in stored}
    assert inbound.counters.failed == 2, "the batch, and the one"


def presented(crowd: Crowd) -> list[tuple[str, bytes]]:
    """Return what all devices say that connect with the certificates of their enrolment."""
    with crowd.house.db.read() as session:
        found = session.execute(text("SELECT subject, serial FROM signing_certificate")).all()
    serials = {str(subject): str(serial) for subject, serial in found}
    words = {one: Presence(on=True, conn_id="c1", boot_id="b", ts=0, cert=serials[one]) for one in crowd.ids}
    return [(crowd.topics.presence(one), encode(word)) for one, word in words.items()]


def noted(crowd: Crowd) -> list[bool]:
    """Return of each device whether the certificate that it came with is noted."""
    with crowd.house.db.read() as session:
        return [
            bool(one) for one in session.execute(text("SELECT cert_serial FROM fleet_device ORDER BY id")).scalars()
        ]


def test_new_certificates_of_a_crowd_are_one_transaction(crowd: Crowd) -> None:
    commits: list[object] = []
    said = presented(crowd)
    event.listen(crowd.house.db.engine, "commit", commits.append)
    crowd.take(said)
    assert noted(crowd) == [True] * DEVICES
    assert len(commits) < DEVICES
    before = len(commits)
    crowd.take(said)
    assert len(commits) - before == 1, "nothing is to be noted of one that is known"


def test_a_certificate_that_cannot_be_noted_costs_only_its_device(
    crowd: Crowd, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = crowd.house.signing.key_of_certificate
    bad = sorted(crowd.ids)[7]

    def fails(device_id: str, serial: str) -> str | None:
        if device_id == bad:
            raise KeyError(serial)
        return find(device_id, serial)

    with monkeypatch.context() as patch:
        patch.setattr(crowd.house.signing, "key_of_certificate", fails)
        crowd.take(presented(crowd))
    assert noted(crowd) == [n != 7 for n in range(DEVICES)]
    assert crowd.online() == DEVICES
    crowd.take(presented(crowd))
    assert noted(crowd) == [True] * DEVICES


@pytest.mark.parametrize(
    ("took_s", "gathered_s"),
    [(0.0, GATHER_S), (0.005, GATHER_S), (0.015, 0.06), (0.025, GATHER_MOST_S), (9.0, GATHER_MOST_S)],
)
def test_what_comes_is_gathered_longer_after_a_batch_that_took_long(took_s: float, gathered_s: float) -> None:
    assert gather_s(took_s) == pytest.approx(gathered_s)


def test_after_a_turn_without_messages_the_next_are_gathered_shortly(
    crowd: Crowd, monkeypatch: pytest.MonkeyPatch
) -> None:
    inbound = crowd.inbound()
    gather, asked, turns = inbound._queue.gather, list[tuple[float, int]](), threading.Semaphore(0)

    def noted(wait_s: float, longest_s: float, most: int, most_bytes: int) -> list[Any]:
        found = gather(wait_s, longest_s, most, most_bytes)
        asked.append((longest_s, len(found)))
        turns.release()
        return found

    monkeypatch.setattr(inbound._queue, "gather", noted)
    monkeypatch.setattr(inbound_side, "gather_s", lambda took_s: 0.0 if took_s == 0.0 else GATHER_MOST_S)
    inbound.put(*crowd.coming()[0])
    inbound.start()
    for _ in range(3):
        assert turns.acquire(timeout=30)
    inbound.stop()
    assert asked[:3] == [(0.0, 1), (GATHER_MOST_S, 0), (0.0, 0)]


def test_a_value_that_the_database_refuses_costs_only_its_device(crowd: Crowd) -> None:
    said = crowd.coming()
    huge = State(device=crowd.ids[3], gen=1, boot_id="b", seq=2**63, ts=0, models=[])
    said[7] = (crowd.topics.state(crowd.ids[3]), encode(huge))
    crowd.take(said)
    assert sum(row[4] == 1 for row in crowd.rows()[0]) == DEVICES - 1


def test_what_was_stored_and_not_acknowledged_counts_once_when_it_comes_again(
    crowd: Crowd, monkeypatch: pytest.MonkeyPatch
) -> None:
    class KilledError(BaseException):
        """The process ends between commit and acknowledgement."""

    def killed(_states: Mapping[DeviceId, State]) -> Sequence[Any]:
        raise KilledError

    inbound = crowd.inbound()
    for receipt, (topic, payload) in enumerate(crowd.coming(), start=1):
        inbound.put(topic, payload, receipt)
    with monkeypatch.context() as patch:
        patch.setattr(crowd.house.fleet.receiver, "take_states", killed)
        items = inbound._queue.gather(1.0, 0.0, 1_000, 1 << 20)
        with pytest.raises(KilledError):
            inbound._store(inbound._sorted(items))
    assert crowd.receipts == [], "nothing was acknowledged"
    before = crowd.rows()
    assert [row[1] for row in before[0]] == [True] * DEVICES, "presence was committed"
    crowd.take(crowd.coming())
    after = crowd.rows()
    assert after[2] == before[2], "no device was away in between"
    assert sum(row[4] == 1 for row in after[0]) == DEVICES
    assert sorted(crowd.receipts) == list(range(1, 2 * DEVICES + 1))


def test_the_words_of_one_device_keep_their_order_when_the_batch_is_refused(
    crowd: Crowd, monkeypatch: pytest.MonkeyPatch
) -> None:
    take: Callable[..., Any] = crowd.house.fleet.receiver.take_presences

    def no_crowds(words: Sequence[tuple[DeviceId, Presence]]) -> Any:
        if len(words) > 1:
            raise OverflowError
        return take(words)

    monkeypatch.setattr(crowd.house.fleet.receiver, "take_presences", no_crowds)
    one, topic = crowd.ids[0], crowd.topics.presence(crowd.ids[0])
    words = [Presence(on=on, conn_id=conn, boot_id="b", ts=0) for on, conn in [(True, "a"), (True, "b"), (False, "b")]]
    crowd.take([(topic, encode(word)) for word in words])
    assert crowd.house.fleet.reader.device(one).status is DeviceStatus.OFFLINE


class Away:
    """A database that does not answer until it is told to. asked: set after more calls than a batch is tried with."""

    def __init__(self, crowd: Crowd, monkeypatch: pytest.MonkeyPatch) -> None:
        self.is_back, self.asked, self._calls = False, threading.Event(), 0
        for owner, name in ((crowd.house.fleet.devices, "live_among"), (crowd.house.fleet.receiver, "take_states")):
            monkeypatch.setattr(owner, name, partial(self._answer, getattr(owner, name)))

    def _answer(self, real: Callable[..., Any], *arguments: Any) -> Any:
        if self.is_back:
            return real(*arguments)
        self._calls += 1
        if self._calls > 2 * inbound_side.MAX_RETRIES:
            self.asked.set()
        raise OperationalError("", {}, Exception())


def test_a_database_that_is_away_for_longer_than_some_tries_costs_no_state(
    crowd: Crowd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbound_side, "RETRY_S", 0.001)
    away = Away(crowd, monkeypatch)
    inbound = crowd.inbound()
    for receipt, (topic, payload) in enumerate(crowd.coming(), start=1):
        inbound.put(topic, payload, receipt)
    inbound.start()
    assert away.asked.wait(30)
    assert crowd.receipts == [], "the broker keeps what is not stored"
    away.is_back = True
    assert eventually(lambda: len(crowd.receipts) == 2 * DEVICES, 30)
    inbound.stop()
    assert crowd.online() == DEVICES
    assert sum(row[4] == 1 for row in crowd.rows()[0]) == DEVICES
    assert sorted(crowd.receipts) == list(range(1, 2 * DEVICES + 1))


def test_what_waits_for_the_database_when_the_server_stops_comes_again(
    crowd: Crowd, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        Away(crowd, patch)
        crowd.take(crowd.coming())
    assert crowd.receipts == []
    crowd.take(crowd.coming())
    assert sum(row[4] == 1 for row in crowd.rows()[0]) == DEVICES


def test_a_batch_at_which_a_database_that_answers_fails_again_and_again_is_taken_apart(
    crowd: Crowd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbound_side, "RETRY_S", 0.001)
    take: Callable[..., Any] = crowd.house.fleet.receiver.take_states
    bad = crowd.ids[5]

    def fails(states: Mapping[DeviceId, State]) -> Any:
        if bad in states:
            raise OperationalError("too much", {}, Exception())
        return take(states)

    monkeypatch.setattr(crowd.house.fleet.receiver, "take_states", fails)
    inbound = crowd.inbound()
    for receipt, (topic, payload) in enumerate(crowd.coming(), start=1):
        inbound.put(topic, payload, receipt)
    inbound.start()
    assert eventually(lambda: len(crowd.receipts) == 2 * DEVICES, 30)
    inbound.stop()
    assert {row[0] for row in crowd.rows()[0] if row[4] == 1} == set(crowd.ids) - {bad}
