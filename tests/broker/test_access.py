"""Who gets in, and who gets what: no device ever reads or writes another's topics (ADR 0006)."""

from __future__ import annotations

import pytest

from edgefleet_protocol.ids import DeviceId
from edgefleet_server.gateway.broker.model import BrokerKind
from tests.broker.client import Client, RefusedError
from tests.broker.conftest import Clients, Site
from tests.broker.pki import Authority, Identity


def _fence(server: Client, device: Client, topic: str, text: bytes = b"fence") -> None:
    """Send the device a message it may have; all that was sent before has arrived when it is here."""
    server.publish(topic, text)
    device.wait_for(text)


def test_no_foreign_filter_delivers_anything(site: Site, clients: Clients) -> None:
    own, other = site.identity(), site.identity()
    topics, me, you = site.topics, DeviceId(own.name), DeviceId(other.name)
    root = topics.prefix
    foreign = [
        "#",
        "+/+/+/#",
        f"{root}/#",
        f"{root}/d/#",
        f"{root}/d/+/dn/desired",
        f"{root}/d/+/dn/#",
        f"{root}/d/{you}/dn/#",
        f"{root}/d/{you}/dn/desired",
        f"{root}/d/{you}/up/#",
        f"{root}/d/{me}/up/#",
        f"{root}/d/{me}/#",
        f"{root}/repo/#",
        "$SYS/#",
        f"$share/g/{root}/d/{you}/dn/#",
    ]
    server, device, neighbour = clients.server(), clients.connect(own), clients.connect(other)
    codes = [device.subscribe((name, 1))[0] for name in foreign]
    if site.kind is BrokerKind.EMBEDDED:
        assert codes == [0x80] * len(foreign)
    device.subscribe((topics.desired(me), 1))
    server.publish(topics.desired(you), b"secret", retain=True)
    server.publish(topics.dn_meta(you), b"secret")
    server.publish(f"{root}/repo/other", b"secret")
    neighbour.publish(topics.state(you), b"secret", retain=True)
    device.publish(topics.state(me), b"echo", retain=True)
    _fence(server, device, topics.desired(me))
    assert set(device.payloads()) == {b"fence"}  # overlapping filters may bring more than one copy


def test_own_filters_are_granted_and_deliver(site: Site, clients: Clients) -> None:
    own = site.identity()
    me, topics = DeviceId(own.name), site.topics
    server, device = clients.server(), clients.connect(own)
    codes = [device.subscribe(pair)[0] for pair in topics.device_subscriptions(me)]
    assert codes == [qos for _, qos in topics.device_subscriptions(me)]
    for name, qos in topics.device_subscriptions(me):
        server.publish(name, name.encode(), qos)
        device.wait_for(name.encode(), name)


def test_no_foreign_publish_is_delivered_or_retained(site: Site, clients: Clients) -> None:
    own, other = site.identity(), site.identity()
    me, you, topics = DeviceId(own.name), DeviceId(other.name), site.topics
    root = topics.prefix
    server, device, neighbour = clients.server(), clients.connect(own), clients.connect(other)
    server.subscribe((f"{root}/#", 1))
    neighbour.subscribe((topics.desired(you), 1), (topics.hold(), 1), (topics.dn_blk(you), 0))
    foreign = [
        (topics.state(you), False),
        (topics.presence(you), True),
        (topics.desired(you), True),
        (topics.desired(me), False),
        (topics.dn_blk(you), False),
        (topics.repo_head(), False),
        (topics.hold(), False),
        (f"{root}/b/0123", False),
        (f"{root}/stage/r-1", False),
        (f"{root}/d/{me}", False),
        ("ef/1/other/d/x/up/state", False),
    ]
    for number, (name, retain) in enumerate(foreign):
        device.publish(name, b"forged %d" % number, retain=retain)
    assert device.publish(topics.event(me), b"fence") == 0
    server.wait_for(b"fence")
    assert not [payload for payload in server.payloads() if payload.startswith(b"forged")]
    _fence(server, neighbour, topics.desired(you))
    assert neighbour.payloads(topics.desired(you)) == [b"fence"]
    late = clients.connect(site.authority.device("srv-second"))
    late.subscribe((f"{root}/d/{you}/#", 1))
    late.publish(topics.dn_meta(you), b"fence")
    late.wait_for(b"fence")
    assert late.payloads() == [b"fence"]


@pytest.mark.parametrize("flaw", ["no certificate", "expired", "rogue CA", "server certificate"])
def test_certificate_is_needed(flaw: str, site: Site, clients: Clients) -> None:
    name = site.identity().name
    identity: Identity | None
    if flaw == "no certificate":
        identity = None
    elif flaw == "expired":
        identity = site.authority.device(name, is_expired=True)
    elif flaw == "rogue CA":
        identity = Authority(site.folder / "rogue").device(name)
    else:
        identity = site.authority.server(name)
    with pytest.raises(RefusedError):
        clients.connect(identity, client_id=name)


def test_another_client_id_gives_nothing_of_the_other(site: Site, clients: Clients) -> None:
    own, other = site.identity(), site.identity()
    me, you, topics = DeviceId(own.name), DeviceId(other.name), site.topics
    server = clients.server()
    try:
        imposter = clients.connect(own, client_id=other.name)
    except RefusedError:
        assert site.kind is BrokerKind.EMBEDDED
        return
    assert site.kind is BrokerKind.MOSQUITTO  # it goes on under the certificate's name
    imposter.subscribe((topics.desired(you), 1))
    imposter.subscribe((topics.desired(me), 1))
    server.publish(topics.desired(you), b"secret")
    _fence(server, imposter, topics.desired(me))
    assert imposter.payloads() == [b"fence"]


@pytest.mark.parametrize("clean", [True, False])
@pytest.mark.parametrize("with_certificate", [True, False])
def test_online_device_is_untouched_by_theft_of_its_id(
    with_certificate: bool, clean: bool, site: Site, clients: Clients
) -> None:
    victim_identity = site.identity()
    victim_id, topics = DeviceId(victim_identity.name), site.topics
    server, victim = clients.server(), clients.connect(victim_identity, clean=False)
    victim.subscribe((topics.desired(victim_id), 1))
    try:
        thief = clients.connect(
            site.identity() if with_certificate else None, client_id=victim_identity.name, clean=clean
        )
        thief.subscribe((topics.desired(victim_id), 1))
    except RefusedError:
        thief = None
    _fence(server, victim, topics.desired(victim_id), b"for the victim")
    assert not victim.is_closed.is_set()
    assert thief is None or thief.payloads() == []


@pytest.mark.parametrize("with_certificate", [True, False])
def test_offline_queue_cannot_be_stolen(with_certificate: bool, site: Site, clients: Clients) -> None:
    victim_identity = site.identity()
    victim_id, topics = DeviceId(victim_identity.name), site.topics
    server, victim = clients.server(), clients.connect(victim_identity, clean=False)
    victim.subscribe((topics.desired(victim_id), 1))
    victim.disconnect()
    for number in range(5):
        server.publish(topics.desired(victim_id), b"%d" % number)
    for clean in (True, False):
        identity = site.identity() if with_certificate else None
        try:
            thief = clients.connect(identity, client_id=victim_identity.name, clean=clean)
        except RefusedError:
            continue
        assert identity is not None
        thief.subscribe((topics.desired(DeviceId(identity.name)), 1))
        _fence(server, thief, topics.desired(DeviceId(identity.name)))
        assert thief.payloads() == [b"fence"]
    back = clients.connect(victim_identity, clean=False)
    assert back.wait_count(5) == [b"0", b"1", b"2", b"3", b"4"]


def test_will_on_a_foreign_topic_is_never_delivered(site: Site, clients: Clients) -> None:
    own, other = site.identity(), site.identity()
    topics, you = site.topics, DeviceId(other.name)
    server, neighbour = clients.server(), clients.connect(other)
    server.subscribe((f"{topics.prefix}/d/{you}/#", 1))
    neighbour.subscribe((topics.desired(you), 1))
    for name in (topics.desired(you), topics.presence(you)):
        try:
            clients.connect(own, will=(name, b"forged", 1, True)).cut()
        except RefusedError:
            continue
    again = clients.connect(own)  # the broker has dealt with the end of the older link
    again.publish(topics.event(DeviceId(own.name)))
    _fence(server, neighbour, topics.desired(you))
    assert neighbour.payloads() == [b"fence"]
    assert b"forged" not in server.payloads()
    late = clients.connect(site.authority.device("srv-second"))
    late.subscribe((f"{topics.prefix}/d/{you}/#", 1))
    late.publish(topics.dn_meta(you), b"fence")
    late.wait_for(b"fence")
    assert late.payloads() == [b"fence"]


def test_connect_without_subscription_brings_nothing(site: Site, clients: Clients) -> None:
    own, other = site.identity(), site.identity()
    me, you, topics = DeviceId(own.name), DeviceId(other.name), site.topics
    server, neighbour = clients.server(), clients.connect(other)
    neighbour.subscribe((topics.desired(you), 1))
    server.subscribe((topics.event(me), 1))
    for name in (topics.desired(you), topics.desired(me)):
        server.publish(name, b"secret", retain=True)
    for clean in (True, False, False):
        device = clients.connect(own, clean=clean)
        device.publish(topics.event(me), b"hello")
        server.wait_for(b"hello")
        device.publish(topics.event(me), b"again")  # its PUBACK is behind whatever the connect brought
        assert device.payloads() == []
        device.disconnect()
        server.messages.clear()
