"""The gateway's own connection: many messages with a window, and one that the broker refuses."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from edgefleet_protocol.ids import DeviceId
from edgefleet_server.gateway.broker.model import BrokerKind
from edgefleet_server.gateway.mqtt import MAX_UNACKED, LinkHandlers, MqttLink
from tests.broker.client import eventually
from tests.broker.conftest import Clients, Site


@pytest.fixture
def link(site: Site) -> Iterator[MqttLink]:
    """Return a link that is up."""
    made = site.link("srv-second", LinkHandlers(lambda _topic, _payload, _receipt: None, lambda: None, lambda: None))
    made.start()
    eventually(lambda: made.is_up, "the connection")
    yield made
    made.stop()


def test_many_more_messages_than_the_window_all_arrive_once_and_are_acknowledged(
    site: Site, clients: Clients, link: MqttLink
) -> None:
    identity = site.identity()
    topic = site.topics.desired(DeviceId(identity.name))
    device = clients.connect(identity)
    device.subscribe((topic, 1))
    most = 0
    for number in range(3 * MAX_UNACKED):
        assert link.publish(topic, b"%d" % number, qos=1)
        most = max(most, link.unacked)
    device.wait_count(3 * MAX_UNACKED)
    assert device.payloads() == [b"%d" % number for number in range(3 * MAX_UNACKED)]
    eventually(lambda: link.unacked == 0, "every acknowledgement")
    assert most <= MAX_UNACKED


def test_what_the_broker_refuses_is_said_once_and_the_link_goes_on(
    site: Site, clients: Clients, link: MqttLink, caplog: pytest.LogCaptureFixture
) -> None:
    times = 0 if site.kind is BrokerKind.EMBEDDED else 1  # which speaks MQTT 3.1.1: it has no word for it
    with caplog.at_level(logging.ERROR):
        assert link.publish("nobody/may/write/here", b"x", qos=1)
        assert link.publish("nobody/may/write/here", b"x", qos=1)
        eventually(lambda: link.unacked == 0, "both acknowledgements")
    assert [one.getMessage() for one in caplog.records].count("broker refused a message") == times
    assert link.is_up
    identity = site.identity()
    topic = site.topics.desired(DeviceId(identity.name))
    device = clients.connect(identity)
    device.subscribe((topic, 1))
    link.publish(topic, b"still", qos=1)
    assert device.wait_count(1) == [b"still"]
