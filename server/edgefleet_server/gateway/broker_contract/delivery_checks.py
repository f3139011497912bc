"""What is sent arrives: queues of devices that are away, un-acknowledged messages, retained messages (ADR 0006)."""

from __future__ import annotations

import threading

from edgefleet_server.gateway.broker_contract.errors import ClientRefusedError, UnmetError, UnsupportedError
from edgefleet_server.gateway.broker_contract.link_client import LinkOptions
from edgefleet_server.gateway.broker_contract.stand import KEPT, Stand, device_of

DEPTH = 1_000


def queue_keeps_the_order(stand: Stand) -> str:
    """Fifty messages for a device that is away come when it returns, in order."""
    count = _queued(stand, 50)
    if count < 50:
        raise UnmetError(f"of 50 messages came {count}")
    return "50 of 50, in order"


def queue_is_deep(stand: Stand) -> str:
    """A thousand messages wait for a device that is away."""
    count = _queued(stand, DEPTH)
    if count < DEPTH:
        raise UnmetError(f"{count} of {DEPTH} were kept")
    return f"{DEPTH} of {DEPTH}"


def _queued(stand: Stand, count: int) -> int:
    identity = stand.device()
    topic = stand.topics.desired(device_of(identity))
    server, device = stand.server(), stand.client(identity, KEPT)
    device.subscribe((topic, 1))
    device.disconnect()
    sent = [b"%d" % number for number in range(count)]
    mids = [server.send(topic, payload) for payload in sent]
    stand.wait(lambda: all(mid in server.acks for mid in mids), "all PUBACKs")
    back = stand.client(identity, KEPT)
    if not back.session_present:
        raise UnmetError("the session was not kept")
    try:
        back.wait_count(count)
    except UnmetError:
        return len(back.payloads())
    if back.payloads() != sent:
        raise UnmetError("out of order")
    return count


def online_messages_keep_the_order(stand: Stand) -> str:
    """Two hundred messages to a device that is connected come in order, each once."""
    identity = stand.device()
    topic = stand.topics.desired(device_of(identity))
    server, device = stand.server(), stand.client(identity)
    device.subscribe((topic, 1))
    sent = [b"%d" % number for number in range(200)]
    for payload in sent:
        server.send(topic, payload)
    device.wait_count(200)
    if device.payloads() != sent:
        raise UnmetError("out of order, or more than once")
    return "200 in order"


def reconnecting_loses_nothing(stand: Stand) -> str:
    """Nothing is lost that is sent while a device's connection breaks and it returns."""
    identity = stand.device()
    topic = stand.topics.desired(device_of(identity))
    server, device = stand.server(), stand.client(identity, KEPT)
    device.subscribe((topic, 1))
    sent: list[bytes] = []
    got: set[bytes] = set()
    for turn in range(5):
        device.cut()
        batch = [b"%d/%d" % (turn, number) for number in range(100)]
        sent += batch
        sender = threading.Thread(target=lambda batch=batch: [server.send(topic, payload) for payload in batch])
        sender.start()
        device = stand.client(identity, KEPT)
        sender.join()
        for payload in batch:
            device.wait_for(payload)
        got |= {*device.payloads()}
    if got != {*sent}:
        raise UnmetError(f"{len({*sent} - got)} of {len(sent)} lost")
    return f"{len(sent)} of {len(sent)} over 5 breaks"


def unacknowledged_after_cut(stand: Stand) -> str:
    """QoS 1 messages that a device has not acknowledged come again after its connection broke."""
    return _unacknowledged(stand, "cut")


def unacknowledged_after_disconnect(stand: Stand) -> str:
    """And after it said DISCONNECT."""
    return _unacknowledged(stand, "disconnect")


def unacknowledged_after_silence(stand: Stand) -> str:
    """And after it froze, when the keepalive is over or it returns."""
    return _unacknowledged(stand, "freeze")


def _unacknowledged(stand: Stand, how: str) -> str:
    identity = stand.device()
    topic = stand.topics.desired(device_of(identity))
    server = stand.server()
    held = LinkOptions(clean=False, manual_ack=True, keepalive_s=2 if how == "freeze" else 60)
    device = stand.client(identity, held)
    device.subscribe((topic, 1))
    sent = [b"%d" % number for number in range(20)]
    for payload in sent:
        server.send(topic, payload)
    if device.wait_count(20) != sent:
        raise UnmetError("out of order")
    getattr(device, how)()
    back = stand.client(identity, KEPT)
    got = back.wait_count(20)
    if got != sent:
        raise UnmetError("came again out of order")
    return "20 of 20, in order"


def acknowledged_do_not_come_again(stand: Stand) -> str:
    """What a device has acknowledged does not come again."""
    identity = stand.device()
    me = device_of(identity)
    topic = stand.topics.desired(me)
    server = stand.server()
    device = stand.client(identity, LinkOptions(clean=False, manual_ack=True))
    device.subscribe((topic, 1))
    for number in range(10):
        server.send(topic, b"%d" % number)
    device.wait_count(10)
    for message in device.messages[:7]:
        device.ack(message)
    device.publish(stand.topics.event(me))  # its PUBACK comes after the broker has read the acknowledgements
    device.cut()
    back = stand.client(identity, KEPT)
    server.publish(topic, b"fence")
    back.wait_for(b"fence")
    if back.payloads() != [b"7", b"8", b"9", b"fence"]:
        raise UnmetError(f"came again: {b' '.join(back.payloads()).decode()}")
    return "3 of 10 that were not acknowledged"


def retained_newest_is_given(stand: Stand) -> str:
    """A device that subscribes gets the newest retained document, and none once it was cleared."""
    identity = stand.device()
    me, topics = device_of(identity), stand.topics
    server, device = stand.server(), stand.client(identity)
    server.publish(topics.desired(me), b"one", retain=True)
    server.publish(topics.desired(me), b"two", retain=True)
    device.subscribe((topics.desired(me), 1))
    if device.wait_count(1) != [b"two"]:
        raise UnmetError("not the newest")
    server.publish(topics.desired(me), b"", retain=True)
    device.wait_for(b"")
    late = stand.client(identity)
    late.subscribe((topics.desired(me), 1))
    stand.fence(server, late, topics.desired(me))
    if late.payloads() != [b"fence"]:
        raise UnmetError("a message that was cleared is still given")
    return "newest given, cleared gone"


def retained_again_when_subscribed_again(stand: Stand) -> str:
    """A device that subscribes again, also in a session that goes on, gets the retained document again."""
    identity = stand.device()
    me, topics = device_of(identity), stand.topics
    server, device = stand.server(), stand.client(identity, KEPT)
    server.publish(topics.desired(me), b"two", retain=True)
    device.subscribe((topics.desired(me), 1))
    device.wait_count(1)
    device.subscribe((topics.desired(me), 1))
    device.wait_count(2)
    device.disconnect()
    back = stand.client(identity, KEPT)
    back.subscribe((topics.desired(me), 1))
    back.wait_for(b"two")
    return "given each time"


def retained_to_a_wildcard(stand: Stand) -> str:
    """A subscription with a wildcard brings what is retained under it: the server reads states and presences so when it starts."""
    devices = [stand.device() for _ in range(3)]
    for identity in devices:
        stand.client(identity).publish(stand.topics.state(device_of(identity)), identity.name.encode(), retain=True)
    server = stand.server()
    wanted = {one.name.encode() for one in devices}
    server.subscribe((f"{stand.topics.prefix}/d/+/up/state", 1))
    stand.wait(lambda: wanted <= {*server.payloads()}, "all retained messages")
    return "3 of 3"


def session_is_announced(stand: Stand) -> str:
    """The CONNACK says whether the session, one with a subscription, was kept."""
    identity = stand.device()
    first = stand.client(identity, KEPT)
    first.subscribe((stand.topics.desired(device_of(identity)), 1))
    seen = [first.session_present]
    first.disconnect()
    for options in (KEPT, LinkOptions()):
        link = stand.client(identity, options)
        seen.append(link.session_present)
        link.disconnect()
    if seen != [False, True, False]:
        raise UnmetError(f"said {seen} instead of [False, True, False]")
    return "said right"


def wave_reaches_everybody(stand: Stand) -> str:
    """A message to many devices reaches all of them, also while others connect and subscribe."""
    steady = [stand.client(stand.device()) for _ in range(15)]
    stage = stand.stage()
    for device in steady:
        device.subscribe((stage, 1))
    server, passing, stop = stand.server(), stand.device(), threading.Event()

    def come_and_go() -> None:
        while not stop.is_set():
            try:
                visitor = stand.client(passing)
            except ClientRefusedError:
                continue
            visitor.subscribe(*stand.topics.device_subscriptions(device_of(passing)))
            visitor.cut()

    visits = threading.Thread(target=come_and_go)
    visits.start()
    sent = [b"%d" % number for number in range(100)]
    try:
        for payload in sent:
            server.publish(stage, payload)
        for device in steady:
            device.wait_count(100)
    finally:
        stop.set()
        visits.join()
    if not all(sorted(device.payloads()) == sorted(sent) for device in steady):
        raise UnmetError("not each message once")
    return f"100 messages to {len(steady)} devices, each once"


def shared_subscription(stand: Stand) -> str:
    """Two server accounts share a subscription. edgefleet does not use it: replicas each take all messages."""
    topic = stand.stage()
    replicas = [stand.server(), stand.server(second=True)]
    for one in replicas:
        codes = one.subscribe((f"$share/check/{topic}", 1))
        if not codes or codes[0] >= 0x80:
            raise UnsupportedError("refused")
    for number in range(100):
        replicas[0].send(topic, b"%d" % number)
    try:
        stand.wait(lambda: sum(len(one.messages) for one in replicas) >= 100, "100 messages")
    except UnmetError as error:
        raise UnsupportedError("granted, but not delivered") from error
    counts = [len(one.messages) for one in replicas]
    return f"{counts[0]} + {counts[1]} of 100"
