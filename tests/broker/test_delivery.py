"""What is sent arrives: queues of devices that are away, un-acknowledged messages, retained messages (ADR 0006)."""

from __future__ import annotations

import threading

import pytest

from edgefleet_protocol.ids import DeviceId
from edgefleet_server.gateway.broker.model import BrokerKind
from tests.broker.client import RefusedError, eventually
from tests.broker.conftest import Clients, Site

_ENDINGS = ["socket cut", "DISCONNECT", pytest.param("silence", marks=pytest.mark.slow)]


@pytest.mark.parametrize("count", [50, 1000])
def test_messages_for_a_device_that_is_away_come_later_and_in_order(count: int, site: Site, clients: Clients) -> None:
    identity = site.identity()
    topic = site.topics.desired(DeviceId(identity.name))
    server, device = clients.server(), clients.connect(identity, clean=False)
    device.subscribe((topic, 1))
    device.disconnect()
    sent = [b"%d" % number for number in range(count)]
    mids = [server.send(topic, payload) for payload in sent]
    eventually(lambda: all(mid in server.acks for mid in mids), "all PUBACKs")
    back = clients.connect(identity, clean=False)
    assert back.session_present
    assert back.wait_count(count) == sent


def test_nothing_is_lost_while_a_device_reconnects(site: Site, clients: Clients) -> None:
    identity = site.identity()
    topic = site.topics.desired(DeviceId(identity.name))
    server, device = clients.server(), clients.connect(identity, clean=False)
    device.subscribe((topic, 1))
    sent: list[bytes] = []
    got: set[bytes] = set()
    for turn in range(5):
        device.cut()
        batch = [b"%d/%d" % (turn, number) for number in range(100)]
        sent += batch
        sender = threading.Thread(target=lambda batch=batch: [server.send(topic, payload) for payload in batch])
        sender.start()
        device = clients.connect(identity, clean=False)
        sender.join()
        for payload in batch:
            device.wait_for(payload)
        got |= {*device.payloads()}
    assert got == {*sent}


@pytest.mark.parametrize("ending", _ENDINGS)
def test_unacknowledged_messages_come_again(ending: str, site: Site, clients: Clients) -> None:
    identity = site.identity()
    topic = site.topics.desired(DeviceId(identity.name))
    server = clients.server()
    device = clients.connect(identity, clean=False, manual_ack=True, keepalive_s=2 if ending == "silence" else 60)
    device.subscribe((topic, 1))
    sent = [b"%d" % number for number in range(20)]
    for payload in sent:
        server.send(topic, payload)
    assert device.wait_count(20) == sent
    if ending == "socket cut":
        device.cut()
    elif ending == "DISCONNECT":
        device.disconnect()
    else:
        device.freeze()
    back = clients.connect(identity, clean=False)
    assert back.wait_count(20) == sent


def test_acknowledged_messages_do_not_come_again(site: Site, clients: Clients) -> None:
    identity = site.identity()
    me = DeviceId(identity.name)
    topic = site.topics.desired(me)
    server = clients.server()
    device = clients.connect(identity, clean=False, manual_ack=True)
    device.subscribe((topic, 1))
    for number in range(10):
        server.send(topic, b"%d" % number)
    device.wait_count(10)
    for message in device.messages[:7]:
        device.ack(message)
    device.publish(site.topics.event(me))  # its PUBACK comes after the broker has read the acknowledgements
    device.cut()
    back = clients.connect(identity, clean=False)
    server.publish(topic, b"fence")
    back.wait_for(b"fence")
    assert back.payloads() == [b"7", b"8", b"9", b"fence"]


def test_retained_messages(site: Site, clients: Clients) -> None:
    identity = site.identity()
    me, topics = DeviceId(identity.name), site.topics
    server, device = clients.server(), clients.connect(identity)
    server.publish(topics.desired(me), b"one", retain=True)
    server.publish(topics.desired(me), b"two", retain=True)
    device.subscribe((topics.desired(me), 1))
    assert device.wait_count(1) == [b"two"]
    device.subscribe((topics.desired(me), 1))
    assert device.wait_count(2) == [b"two", b"two"]
    server.publish(topics.desired(me), b"", retain=True)
    device.wait_for(b"")
    late = clients.connect(identity)
    late.subscribe((topics.desired(me), 1))
    server.publish(topics.desired(me), b"fence")
    late.wait_for(b"fence")
    assert late.payloads() == [b"fence"]


def test_retained_messages_come_to_a_wildcard(site: Site, clients: Clients) -> None:
    identity = site.identity()
    server, device = clients.server(), clients.connect(identity)
    topics = [f"{site.topics.prefix}/stage/{identity.name}-{number}" for number in range(21)]
    for topic in topics:
        server.publish(topic, topic.encode(), retain=True)
    device.subscribe((f"{site.topics.prefix}/stage/+", 1))
    eventually(lambda: {*topics} <= {*device.topics()}, "all retained messages")
    for topic in topics:
        server.publish(topic, b"", retain=True)


@pytest.mark.slow
def test_a_wave_reaches_everybody_while_others_connect(site: Site, clients: Clients) -> None:
    steady = [clients.connect(site.identity()) for _ in range(30)]
    stage = f"{site.topics.prefix}/stage/wave"
    for device in steady:
        device.subscribe((stage, 1), (site.topics.hold(), 1))
    server = clients.server()
    stop = threading.Event()
    passing = site.identity()

    def come_and_go() -> None:
        while not stop.is_set():
            try:
                visitor = clients.connect(passing)
                visitor.subscribe(*site.topics.device_subscriptions(DeviceId(passing.name)))
            except RefusedError:
                continue
            visitor.cut()

    visits = threading.Thread(target=come_and_go)
    visits.start()
    sent = [b"%d" % number for number in range(200)]
    for number, payload in enumerate(sent):
        server.publish(stage if number % 2 else site.topics.hold(), payload)
    for device in steady:
        device.wait_count(200)
    stop.set()
    visits.join()
    assert all(sorted(device.payloads()) == sorted(sent) for device in steady)


def test_the_device_knows_whether_its_session_was_kept(site: Site, clients: Clients) -> None:
    identity = site.identity()
    first = clients.connect(identity, clean=False)
    assert not first.session_present
    first.disconnect()
    assert clients.connect(identity, clean=False).session_present
    assert not clients.connect(identity, clean=True).session_present


def test_kinds_speak_the_version_they_promise(site: Site) -> None:
    assert site.endpoint.mqtt == ("3.1.1" if site.kind is BrokerKind.EMBEDDED else "5")
