"""One device hoards retained messages: the broker has no room for more than one on each of its own leaves."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path

import psutil
import pytest

from edgefleet_protocol.ids import DeviceId
from edgefleet_protocol.topics import RETAINED_UP_LEAVES, UP_LEAVES
from edgefleet_server.clock import SystemClock
from edgefleet_server.gateway.broker.model import BrokerKind, find_mosquitto
from edgefleet_server.gateway.broker.supervisor import BrokerSupervisor
from tests.broker.client import PATIENCE_S, Client, eventually
from tests.broker.conftest import Clients, Site
from tests.broker.pki import Authority

MIB = 1024 * 1024
HOARD = 2_000
BLOCK = b"\0" * 200_000
UNDER_WAY = 20


def rss(site: Site) -> int:
    """Return what the broker's process holds in memory, bytes."""
    assert site.supervisor.pid is not None
    return int(psutil.Process(site.supervisor.pid).memory_info().rss)


def hoard(device: Client, topics: list[str]) -> None:
    """Publish a block to each topic, retained, and wait until the last was answered; the link must live."""
    before = len(device.acks)
    for start in range(0, len(topics), UNDER_WAY):
        sent = before + start + len([device.send(topic, BLOCK, 1, True) for topic in topics[start : start + UNDER_WAY]])
        eventually(partial(_is_answered, device, sent), "PUBACKs")
    assert not device.is_closed.is_set()


def _is_answered(device: Client, messages: int) -> bool:
    return len(device.acks) >= messages or device.is_closed.is_set()


def test_a_hoard_under_foreign_leaves_grows_nothing(site: Site, clients: Clients) -> None:
    identity = site.identity()
    device, me = clients.connect(identity), DeviceId(identity.name)
    up = f"{site.topics.prefix}/d/{me}/up"
    hoard(device, [f"{up}/warm/{number}" for number in range(UNDER_WAY)])
    before = rss(site)
    hoard(device, [f"{up}/hoard/{number}" for number in range(HOARD)])
    assert rss(site) - before < 16 * MIB
    server = clients.server()
    server.subscribe((f"{up}/#", 1), (site.topics.hold(), 1))
    device.publish(site.topics.event(me), b"fence")
    server.wait_for(b"fence")
    assert server.payloads() == [b"fence"]


def test_a_device_retains_one_message_a_leaf_at_most(site: Site, clients: Clients) -> None:
    identity = site.identity()
    device, me = clients.connect(identity), DeviceId(identity.name)
    up = f"{site.topics.prefix}/d/{me}/up"
    early = clients.server()
    early.subscribe((site.topics.event(me), 1))
    for number in range(3):
        for leaf in UP_LEAVES:
            device.publish(f"{up}/{leaf}", b"%s %d" % (leaf.encode(), number), retain=True)
    device.publish(site.topics.event(me), b"all")
    early.wait_for(b"all")  # an acknowledged message is not yet a retained one
    server = clients.server()
    server.subscribe((f"{up}/#", 1), (site.topics.hold(), 1))
    server.publish(site.topics.hold(), b"fence")
    server.wait_for(b"fence")
    kept = UP_LEAVES if site.kind is BrokerKind.MOSQUITTO else RETAINED_UP_LEAVES
    assert sorted(server.payloads(f"{up}/{leaf}") for leaf in UP_LEAVES if leaf in kept) == sorted(
        [b"%s 2" % leaf.encode()] for leaf in kept
    )
    assert len(server.payloads()) == len(kept) + 1


@pytest.mark.broker
@pytest.mark.skipif(find_mosquitto() is None, reason="no mosquitto binary")
def test_mosquitto_refuses_what_goes_beyond_its_memory_and_goes_on(authority: Authority, tmp_path: Path) -> None:
    site = Site(authority, tmp_path, BrokerKind.MOSQUITTO)
    site.supervisor = BrokerSupervisor(dataclasses.replace(site.config, memory_bytes=8 * MIB), SystemClock())
    site.supervisor.start()
    clients = Clients(site)
    try:
        before, server = rss(site), clients.server()
        for number in range(100):
            server.send(site.topics.desired(DeviceId(f"d-{number}")), BLOCK, 1, retain=True)
        assert server.is_closed.wait(PATIENCE_S), "the one that asks for too much is cut off"
        assert rss(site) - before < 16 * MIB
        device = site.identity()
        assert clients.connect(device).publish(site.topics.event(DeviceId(device.name)), b"alive") == 0x10, (
            "nobody reads"
        )
    finally:
        clients.end()
        site.supervisor.stop()
