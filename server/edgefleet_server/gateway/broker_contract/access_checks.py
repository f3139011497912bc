"""Who gets in, and who gets what: no device ever reads or writes another's topics (ADR 0006)."""

from __future__ import annotations

import contextlib

from edgefleet_protocol.topics import may
from edgefleet_server.gateway.broker_contract.errors import ClientRefusedError, NotRunError, UnmetError
from edgefleet_server.gateway.broker_contract.link_client import LinkClient, LinkOptions, eventually
from edgefleet_server.gateway.broker_contract.stand import KEPT, PLAIN, Stand, device_of
from edgefleet_server.gateway.mqtt import LinkIdentity

REFUSED_FROM = 0x80


def needs_certificate(stand: Stand) -> str:
    """No certificate, an expired one, one of another CA and one for servers are refused."""
    name = stand.name()
    flawed: list[tuple[str, LinkIdentity | None]] = [
        ("no certificate", None),
        ("an expired certificate", stand.issuer.expired(name)),
        ("a certificate of another CA", stand.issuer.stranger(name)),
        ("a certificate for servers", stand.issuer.listener(name)),
    ]
    let_in = [what for what, identity in flawed if _is_let_in(stand, identity, name)]
    _expect(not let_in, f"let in with {', '.join(let_in)}")
    return "refused: none, expired, of another CA, for servers"


def client_id_is_the_certificate(stand: Stand) -> str:
    """A client id that is not the certificate's name brings nothing of the device with that id."""
    own, other = stand.device(), stand.device()
    me, you, topics = device_of(own), device_of(other), stand.topics
    server = stand.server()
    try:
        imposter = stand.client(own, client_id=other.name)
    except ClientRefusedError:
        return "refused"
    codes = imposter.subscribe((topics.desired(you), 1))
    if imposter.is_closed.is_set():
        return "let in, ended when it asked for the other's topics"
    imposter.subscribe((topics.desired(me), 1))
    server.publish(topics.desired(you), b"secret")
    stand.fence(server, imposter, topics.desired(me))
    _expect(imposter.payloads() == [b"fence"], "it was sent what is for the other device")
    return f"goes on under the certificate's name (SUBACK {codes[0]})"


def online_device_is_untouched(stand: Stand) -> str:
    """A device that is connected stays so, and gets its messages, whoever says its client id."""
    victim_is = stand.device()
    victim_id, topics = device_of(victim_is), stand.topics
    server, victim = stand.server(), stand.client(victim_is, KEPT)
    victim.subscribe((topics.desired(victim_id), 1))
    for number, (has_certificate, clean) in enumerate(((True, True), (True, False), (False, True), (False, False))):
        thief: LinkClient | None = None
        with contextlib.suppress(ClientRefusedError):
            thief = stand.client(
                stand.device() if has_certificate else None, LinkOptions(clean=clean), client_id=victim_is.name
            )
            thief.subscribe((topics.desired(victim_id), 1))
        _expect(not victim.is_closed.is_set(), "the device was thrown off")
        stand.fence(server, victim, topics.desired(victim_id), b"for the victim %d" % number)
        _expect(thief is None or thief.payloads() == [], "the other client was sent the device's messages")
    return "untouched in 4 tries"


def queue_cannot_be_stolen(stand: Stand) -> str:
    """What waits for a device that is away is given to nobody else, and is still there afterwards."""
    victim_is = stand.device()
    victim_id, topics = device_of(victim_is), stand.topics
    server, victim = stand.server(), stand.client(victim_is, KEPT)
    victim.subscribe((topics.desired(victim_id), 1))
    victim.disconnect()
    sent = [b"%d" % number for number in range(5)]
    for payload in sent:
        server.publish(topics.desired(victim_id), payload)
    for has_certificate, clean in ((True, True), (True, False), (False, True), (False, False)):
        identity = stand.device() if has_certificate else None
        try:
            thief = stand.client(identity, LinkOptions(clean=clean), client_id=victim_is.name)
        except ClientRefusedError:
            continue
        _expect(identity is not None, "let in without a certificate")
        assert identity is not None
        thief.subscribe((topics.desired(device_of(identity)), 1))
        if not thief.is_closed.is_set():
            stand.fence(server, thief, topics.desired(device_of(identity)))
        _expect(set(thief.payloads()) <= {b"fence"}, "another client was sent what waited for the device")
    got = stand.client(victim_is, KEPT).wait_count(5)
    _expect(got == sent, f"of 5 messages came {len(got)}")
    return "all 5 messages still there"


def foreign_filters_bring_nothing(stand: Stand) -> str:
    """A device that subscribes to anything but its own is refused, or is sent nothing."""
    own, other = stand.device(), stand.device()
    topics, me, you = stand.topics, device_of(own), device_of(other)
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
    server, neighbour = stand.server(), stand.client(other)
    device, refused, ended = stand.client(own), 0, 0
    for name in foreign:
        codes = device.subscribe((name, 1))
        refused += bool(codes) and codes[0] >= REFUSED_FROM
        if not codes:
            ended += 1
            device = stand.client(own)
    device.subscribe((topics.desired(me), 1))
    server.publish(topics.desired(you), b"secret", retain=True)
    server.publish(topics.dn_meta(you), b"secret")
    neighbour.publish(topics.state(you), b"secret", retain=True)
    device.publish(topics.state(me), b"echo", retain=True)
    stand.fence(server, device, topics.desired(me))
    # what is retained for every device, as a hold, may come to `#`
    got = {one for one in device.topics() if not may(topics.tenant, own.name, one, False)}
    _expect(not got, f"a device was sent {', '.join(sorted(got))}")
    return f"of {len(foreign)}: {refused} refused, {ended} ended the link, {len(foreign) - refused - ended} deliver nothing"


def own_filters_deliver(stand: Stand) -> str:
    """A device may subscribe to its own topics, with the QoS that it asks for, and gets what is sent there."""
    own = stand.device()
    me, topics = device_of(own), stand.topics
    server, device = stand.server(), stand.client(own)
    wanted = (*topics.device_subscriptions(me), *topics.shard_subscriptions(me))
    codes = [(device.subscribe(pair) or [-1])[0] for pair in wanted]
    _expect(codes == [qos for _, qos in wanted], f"SUBACK codes {codes} instead of {[qos for _, qos in wanted]}")
    stage = stand.stage()
    server.publish(stage, b"retained", retain=True)  # as the hold of a shard is (ADR 0171)
    device.subscribe((stage, 1))
    device.wait_for(b"retained", stage)
    server.publish(stage, b"", retain=True)
    private = [(topic, qos) for topic, qos in wanted if f"/d/{me}/" in topic]  # the others are read by real devices too
    for topic, qos in (*private, (stage, 1)):
        server.publish(topic, topic.encode(), qos)
        device.wait_for(topic.encode(), topic)
    return f"{len(codes)} granted, {len(private) + 1} delivered"


def foreign_publishes_reach_nobody(stand: Stand) -> str:
    """What a device publishes anywhere but below its own `up/` is neither delivered nor retained."""
    own, other = stand.device(), stand.device()
    me, you, topics = device_of(own), device_of(other), stand.topics
    root = topics.prefix
    stage = stand.stage()
    server, neighbour = stand.server(), stand.client(other)
    server.subscribe((f"{root}/d/{you}/#", 1), (f"{root}/d/{me}/#", 1), (stage, 1), (topics.hold(), 1))
    neighbour.subscribe((topics.desired(you), 1), (topics.dn_blk(you), 0), (stage, 1))
    foreign = [
        (topics.state(you), False),
        (topics.presence(you), True),
        (topics.desired(you), True),
        (topics.desired(me), False),
        (topics.dn_blk(you), False),
        (stage, True),
        (f"{root}/b/{me}", False),
        (f"{root}/d/{me}", False),
        ("ef/1/other/d/x/up/state", False),
        ("$x", False),
        ("$SYS/broker/x", False),
        ("$share/g/x", False),
    ]
    _forge(stand, own, foreign)
    device = stand.client(own)
    _expect(device.publish(topics.event(me), b"fence") == 0, "a device may not publish its own events")
    server.wait_for(b"fence")
    _expect(not _forged(server), f"the server was sent {_forged(server)}")
    # only now, since real devices read these: what is forged there would be refused by its signature, and logged
    _forge(stand, own, [(topics.repo_head(), False), (topics.hold(), False)])
    stand.fence(server, neighbour, topics.desired(you))
    _expect(not _forged(server) and not _forged(neighbour), "a device was sent what another one forged")
    late = stand.server(second=True)
    late.subscribe((f"{root}/d/{you}/#", 1), (stage, 1))
    late.publish(topics.dn_meta(you), b"late")
    late.wait_for(b"late")
    _expect(not _forged(late), "it was retained")
    return f"{len(foreign) + 2} tries, none delivered or retained"


def _forge(stand: Stand, own: LinkIdentity, topics: list[tuple[str, bool]]) -> None:
    device = stand.client(own)
    for number, (topic, retain) in enumerate(topics):
        with contextlib.suppress(UnmetError):  # no PUBACK: as good as a refusal
            device.publish(topic, b"forged %d" % number, retain=retain)
        if device.is_closed.is_set():
            device = stand.client(own)


def _forged(client: LinkClient) -> list[str]:
    return [one.topic for one in client.messages if one.payload.startswith(b"forged")]


def foreign_will_is_never_sent(stand: Stand) -> str:
    """A will on another's topic is refused at the connect, or never delivered nor retained."""
    own, other = stand.device(), stand.device()
    topics, you = stand.topics, device_of(other)
    server, neighbour = stand.server(), stand.client(other)
    server.subscribe((f"{topics.prefix}/d/{you}/#", 1))
    neighbour.subscribe((topics.desired(you), 1))
    refused = 0
    for name in (topics.desired(you), topics.presence(you)):
        try:
            stand.client(own, LinkOptions(will=(name, b"forged", 1, True))).cut()
        except ClientRefusedError:
            refused += 1
    again = stand.client(own)  # the broker has dealt with the end of the older link
    again.publish(topics.event(device_of(own)))
    stand.fence(server, neighbour, topics.desired(you))
    _expect(not _forged(neighbour) and not _forged(server), "it was delivered")
    late = stand.server(second=True)
    late.subscribe((f"{topics.prefix}/d/{you}/#", 1))
    late.publish(topics.dn_meta(you), b"late")
    late.wait_for(b"late")
    _expect(not _forged(late), "it was retained")
    return "refused at the connect" if refused == 2 else "not delivered"


def connecting_brings_nothing(stand: Stand) -> str:
    """A device that has subscribed to nothing is sent nothing, not what is retained for others either."""
    own, other = stand.device(), stand.device()
    me, you, topics = device_of(own), device_of(other), stand.topics
    server, neighbour = stand.server(), stand.client(other)
    neighbour.subscribe((topics.desired(you), 1))
    server.subscribe((topics.event(me), 1))
    for name in (topics.desired(you), topics.desired(me)):
        server.publish(name, b"secret", retain=True)
    for number, options in enumerate((PLAIN, KEPT, KEPT)):
        device = stand.client(own, options)
        device.publish(topics.event(me), b"hello %d" % number)
        server.wait_for(b"hello %d" % number)
        device.publish(topics.event(me), b"again")  # its PUBACK is behind whatever the connect brought
        _expect(device.payloads() == [], f"it was sent {len(device.payloads())} messages")
        device.disconnect()
    return "nothing, in 3 connects"


def revoked_certificate_is_refused(stand: Stand) -> str:
    """A certificate that is revoked is refused within a minute, and others are still let in."""
    gone, stays = stand.device(), stand.device()
    _expect(_is_let_in(stand, gone, gone.name), "a good certificate is refused")
    if why := stand.issuer.revoke(gone.name):
        raise NotRunError(why)
    eventually(lambda: not _is_let_in(stand, gone, gone.name), "the revoked certificate is refused", REVOKED_WITHIN_S)
    _expect(_is_let_in(stand, stays, stays.name), "the broker now refuses certificates that were not revoked")
    return "refused, others let in"


REVOKED_WITHIN_S = 60.0


def _is_let_in(stand: Stand, identity: LinkIdentity | None, name: str) -> bool:
    try:
        stand.client(identity, client_id=name).disconnect()
    except ClientRefusedError:
        return False
    return True


def _expect(fact: object, otherwise: str) -> None:
    if not fact:
        raise UnmetError(otherwise)
