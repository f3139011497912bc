"""A storm of devices waits in the broker, not in the bin: messages are acknowledged once they are done, and devices are slowed down."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest

from edgefleet_protocol.ids import DeviceId
from edgefleet_protocol.messages import Ack, Telemetry, Window, encode
from edgefleet_protocol.topics import Topics
from edgefleet_server.clock import SystemClock
from edgefleet_server.costing.traffic_ledger import TrafficLedger
from edgefleet_server.gateway import inbound, mqtt
from edgefleet_server.gateway.broker.model import BrokerEndpoint, BrokerKind, find_mosquitto
from edgefleet_server.gateway.device_ledger import DeviceLedger
from edgefleet_server.gateway.inbound import Inbound
from edgefleet_server.gateway.outbound import Signed
from edgefleet_server.gateway.service import limits_of
from tests.broker.client import eventually
from tests.server.fleet.conftest import any_house  # noqa: F401  # a fixture
from tests.server.fleet.house import House
from tests.server.gateway.conftest import Site

DEVICES, EACH = 3, 300


def window_of(device: str, seq: int) -> bytes:
    """Return one window of a device."""
    window = Window(
        t0=1_764_000_000 + seq * 60, length_s=60, model="m", lane="active", sha256="a" * 64, version="1", n=5
    )
    return encode(Telemetry(device=device, boot_id="b", seq=seq, ts=1, windows=[window]))


@pytest.mark.broker
@pytest.mark.skipif(find_mosquitto() is None, reason="no mosquitto on this machine")
def test_a_storm_arrives_whole_at_the_first_try(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mqtt, "RECEIVE_MAXIMUM", 64)
    monkeypatch.setattr(inbound, "MAX_BATCH", 50)
    site = Site(tmp_path, BrokerKind.MOSQUITTO)
    try:
        devices = [site.connect(site.house.device()) for _ in range(DEVICES)]
        waiting: list[int] = []
        store = site.house.telemetry.ingest

        def slow(messages: Sequence[Telemetry]) -> int:
            waiting.append(len(site.gateway._inbound._queue))
            return store(messages)

        monkeypatch.setattr(site.house.telemetry, "ingest", slow)
        for device in devices:
            for seq in range(EACH):
                device.client.publish(device.topics.telemetry(device.id), window_of(device.id, seq), qos=1)
        stored = site.house.telemetry.rollups.totals
        eventually(lambda: (found := stored().get(())) is not None and found.windows == DEVICES * EACH, "all of it")
        assert max(waiting) <= 64, "the broker hands over no more before it is acknowledged"
        assert site.gateway.counters()["messages_dropped"] == 0
    finally:
        site.close()


class Answers:
    """Notes acknowledgements."""

    def __init__(self) -> None:
        self.stretches: list[int] = []

    def send_desired(self, documents: Sequence[Signed], *, again: bool = False) -> None:
        """Nothing waits for documents here."""

    def send_ack(self, device: DeviceId, ack: Ack) -> None:
        """Note what it asks for."""
        self.stretches.append(ack.stretch)


def test_devices_are_asked_for_longer_windows_while_the_queue_stays_half_full(
    any_house: House,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    house = any_house
    monkeypatch.setattr(inbound, "MAX_BATCH", 1)
    monkeypatch.setattr(inbound, "HALF_FULL", 10)
    monkeypatch.setattr(inbound, "PRESSED", 5)
    device, answers, done = house.device(), Answers(), list[int]()
    topics = Topics(house.settings.tenant)  # type: ignore[arg-type]
    ledger = DeviceLedger(limits_of(house.settings), house.clock)
    made = Inbound(
        topics.tenant,
        house.fleet.devices.live_among,
        house.fleet.receiver,
        house.telemetry,
        answers,
        ledger,
        TrafficLedger(house.db, house.clock, house.registry, house.fleet.memberships.of),
        house.settings.uplink_queue_bytes,
    )
    made.acknowledge_by(done.extend)
    for seq in range(30):
        made.put(topics.telemetry(device.id), window_of(device.id, seq), receipt=seq + 1)
    made.put("nonsense", b"", receipt=31)
    made.start()
    made.stop()
    # 29 wait behind the first: 19 batches are taken while more than 10 wait, and the sixth of them is under pressure
    assert answers.stretches == [0] * 5 + [inbound.STRETCH] * 14 + [0] * 11
    assert sorted(done) == list(range(1, 32))


def test_half_of_what_waits_is_half_of_what_the_broker_hands_over() -> None:
    assert 2 * inbound.HALF_FULL == mqtt.RECEIVE_MAXIMUM


class Client:
    """A client whose broker sends one message under each filter that is subscribed to."""

    def __init__(self) -> None:
        self.acked: list[tuple[int, int]] = []
        self.is_closed = False
        self._callbacks: dict[str, Any] = {}

    def message_callback_add(self, one: str, callback: Any) -> None:
        """Note it."""
        self._callbacks[one] = callback

    def message_callback_remove(self, one: str) -> None:
        """Forget it."""
        del self._callbacks[one]

    def subscribe(self, filters: Sequence[tuple[str, int]]) -> None:
        """Let a message of QoS 1 come: the gateway listens to it by its own filters."""
        for at, (one, _) in enumerate(filters, 1):
            message = paho.MQTTMessage(mid=at, topic=b"a/b")
            message.qos = 1
            self._callbacks[one](self, None, message)

    def unsubscribe(self, filters: Sequence[str]) -> None:
        """Nothing comes any more."""

    def ack(self, mid: int, qos: int) -> None:
        """Note it, or say that there is no connection, as paho may."""
        if self.is_closed:
            raise ValueError("no socket")
        self.acked.append((mid, qos))


@pytest.fixture
def link(tmp_path: Path) -> mqtt.MqttLink:
    """Return a link that is connected to a `Client`."""
    endpoint = BrokerEndpoint(BrokerKind.MOSQUITTO, "localhost", 1, "5", tmp_path)
    identity = mqtt.LinkIdentity("srv", tmp_path, tmp_path)
    handlers = mqtt.LinkHandlers(lambda _topic, _payload, _receipt: None, lambda: None, lambda: None)
    made = mqtt.MqttLink(endpoint, identity, [], "beat", handlers, SystemClock())
    made._connection = mqtt._Connection(Client(), 1)  # type: ignore[arg-type]
    made._connection.is_up.set()
    return made


def test_what_comes_while_retained_messages_are_looked_for_is_acknowledged(link: mqtt.MqttLink) -> None:
    assert link.retained_under(["a/#", "b/#"]) == []
    client: Any = link._connection.client  # type: ignore[union-attr]
    assert client.acked == [(1, 1), (2, 1)]


def test_a_connection_that_ends_while_messages_are_acknowledged_ends_nothing_else(link: mqtt.MqttLink) -> None:
    client: Any = link._connection.client  # type: ignore[union-attr]
    link.ack([1 << 16 | 5])
    client.is_closed = True
    link.ack([1 << 16 | 6])
    assert client.acked == [(5, 1)]
