"""How large, how fast, which version; and whether anything is left behind."""

from __future__ import annotations

import time

from edgefleet_server.gateway.broker.model import MAX_PACKET_BYTES
from edgefleet_server.gateway.broker_contract.errors import ClientRefusedError, UnmetError, UnsupportedError
from edgefleet_server.gateway.broker_contract.link_client import LinkClient, LinkOptions
from edgefleet_server.gateway.broker_contract.stand import Stand, device_of

KIB = 1024
BLOCK_BYTES = 128 * KIB + 8 * KIB
"""Four leaves of a blob of 32 KiB each, their proof and head: the largest message that the server sends a device."""
PROBE_MESSAGES = 500
PROBE_BYTES = 1_000
WINDOW = 50
LARGEST_TRIED = 1024 * KIB


def packets_of_64_kib(stand: Stand) -> str:
    """A message of 64 KiB passes both ways."""
    return _both_ways(stand, 64 * KIB)


def packets_of_a_block(stand: Stand) -> str:
    """A block of a bundle, four leaves of 32 KiB with their proof, passes both ways."""
    return _both_ways(stand, BLOCK_BYTES)


def _both_ways(stand: Stand, size: int) -> str:
    identity = stand.device()
    me, topics = device_of(identity), stand.topics
    server, device = stand.server(), stand.client(identity)
    server.subscribe((topics.sample(me), 1))
    device.subscribe((topics.dn_blk(me), 0), (topics.desired(me), 1))
    block = b"b" * size
    server.send(topics.dn_blk(me), block, 0)
    server.publish(topics.desired(me), block)
    _arrives(device, topics.dn_blk(me), size, "QoS 0 to the device")
    _arrives(device, topics.desired(me), size, "QoS 1 to the device")
    device.publish(topics.sample(me), block)
    _arrives(server, topics.sample(me), size, "QoS 1 to the server")
    return f"{size} bytes both ways"


def _arrives(client: LinkClient, topic: str, size: int, what: str) -> None:
    try:
        got = client.wait_count(1, topic)
    except UnmetError as error:
        raise UnmetError(f"{size} bytes, {what}: did not arrive") from error
    if len(got[0]) != size:
        raise UnmetError(f"{size} bytes, {what}: {len(got[0])} arrived")


def largest_packet(stand: Stand) -> str:
    """The largest message of a device that passes, up to 1 MiB. Something between 140 KB and 1 MiB keeps memory bounded."""
    identity = stand.device()
    me = device_of(identity)
    server = stand.server()
    server.subscribe((stand.topics.sample(me), 1))
    passed, refused = 0, LARGEST_TRIED + 1
    size = MAX_PACKET_BYTES // 2
    while refused - passed > 16 * KIB and size <= LARGEST_TRIED:
        device = stand.client(identity)
        mid = device.send(stand.topics.sample(me), b"b" * size)
        stand.wait(lambda mid=mid, device=device: mid in device.acks or device.is_closed.is_set(), "an answer")
        if device.acks.get(mid, 0x97) < 0x80:
            passed = size
        else:
            refused = size
        device.cut()
        size = (passed + min(refused, 2 * passed or refused)) // 2 if refused <= LARGEST_TRIED else size * 2
    return f"{passed // KIB} KiB" if refused <= LARGEST_TRIED else f"more than {passed // KIB} KiB"


def speaks_version_5(stand: Stand) -> str:
    """MQTT 5: the server then takes no more messages than it can store, and hears of refusals."""
    return _speaks(stand, "5")


def speaks_version_311(stand: Stand) -> str:
    """MQTT 3.1.1: small devices speak nothing else."""
    return _speaks(stand, "3.1.1")


def _speaks(stand: Stand, version: str) -> str:
    identity = stand.device()
    topic = stand.topics.desired(device_of(identity))
    server = stand.server()
    try:
        device = stand.client(identity, LinkOptions(mqtt=version))
    except ClientRefusedError as error:
        raise UnsupportedError(f"refused: {error.message}") from error
    device.subscribe((topic, 1))
    server.publish(topic, b"hello")
    device.wait_for(b"hello")
    return "yes"


def throughput(stand: Stand) -> str:
    """Messages a second from one device to one server account, 1,000 bytes, QoS 1, 50 under way; with this client, so a lower bound."""
    identity = stand.device()
    me = device_of(identity)
    server, device = stand.server(), stand.client(identity)
    server.subscribe((stand.topics.telemetry(me), 1))
    payload = b"t" * PROBE_BYTES
    begun = time.monotonic()
    for number in range(PROBE_MESSAGES):
        device.send(stand.topics.telemetry(me), payload)
        stand.wait(lambda number=number: len(server.messages) >= number - WINDOW, "the messages")
    server.wait_count(PROBE_MESSAGES)
    return f"{PROBE_MESSAGES / (time.monotonic() - begun):,.0f} messages/s"


def nothing_is_left(stand: Stand) -> str:
    """All that the checks retained and every session can be deleted again."""
    stand.clean()
    if found := stand.leftovers():
        raise UnmetError(f"left behind: {', '.join(found[:5])}")
    return "nothing"
