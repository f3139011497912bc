"""The few MQTT packets that a device needs, versions 3.1.1 and 5, written and read. Pure.

A library keeps queues, timers and a thread for each client: 35 KB and more. A simulated device needs one function a packet.
Source: the OASIS standards MQTT 3.1.1 and 5.0; ADR 0148.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from edgefleet_protocol.errors import BadMessageError

CONNACK: Final = 0x20
PUBLISH: Final = 0x30
PUBACK: Final = 0x40
SUBACK: Final = 0x90
UNSUBACK: Final = 0xB0
PINGRESP: Final = 0xD0
DISCONNECT: Final = 0xE0
PINGREQ_PACKET: Final = b"\xc0\x00"
DISCONNECT_PACKET: Final = b"\xe0\x00"
MAX_PACKET_BYTES: Final = 4 * 1024 * 1024
_SESSION_EXPIRY: Final = 0x11
_WILL_DELAY: Final = 0x18


@dataclass(frozen=True, slots=True)
class Will:
    """What the broker says in the name of a device that is gone. delay_s: how long it waits before, with version 5."""

    topic: str
    payload: bytes
    delay_s: int


@dataclass(frozen=True, slots=True)
class Arrived:
    """One message of the broker. mid: 0 with QoS 0."""

    topic: str
    payload: bytes
    mid: int
    is_retained: bool


def connect(client_id: str, will: Will, keepalive_s: int, *, is_v5: bool, session_s: int) -> bytes:
    """Return a CONNECT packet that keeps its session, with a retained will of QoS 1."""
    body = b"\x00\x04MQTT" + bytes((5 if is_v5 else 4, 0x2C)) + keepalive_s.to_bytes(2, "big")
    if is_v5:
        body += bytes((5, _SESSION_EXPIRY)) + session_s.to_bytes(4, "big")
    body += _field(client_id.encode())
    if is_v5:
        body += bytes((5, _WILL_DELAY)) + will.delay_s.to_bytes(4, "big")
    return _packet(0x10, body + _field(will.topic.encode()) + _field(will.payload))


def subscribe(mid: int, filters: Sequence[tuple[str, int]], *, is_v5: bool) -> bytes:
    """Return a SUBSCRIBE packet. filters: with the QoS of each."""
    named = b"".join(_field(name.encode()) + bytes((qos,)) for name, qos in filters)
    return _packet(0x82, mid.to_bytes(2, "big") + (b"\x00" if is_v5 else b"") + named)


def unsubscribe(mid: int, topics: Sequence[str], *, is_v5: bool) -> bytes:
    """Return an UNSUBSCRIBE packet."""
    named = b"".join(_field(name.encode()) for name in topics)
    return _packet(0xA2, mid.to_bytes(2, "big") + (b"\x00" if is_v5 else b"") + named)


def publish(topic: str, payload: bytes, mid: int, *, is_v5: bool, is_retained: bool = False) -> bytes:
    """Return a PUBLISH packet. mid: 0 = QoS 0."""
    flags = (0x02 if mid else 0) | (0x01 if is_retained else 0)
    head = _field(topic.encode()) + (mid.to_bytes(2, "big") if mid else b"") + (b"\x00" if is_v5 else b"")
    return _packet(PUBLISH | flags, head + payload)


def puback(mid: int) -> bytes:
    """Return a PUBACK packet."""
    return b"\x40\x02" + mid.to_bytes(2, "big")


def take_packets(buffer: bytearray) -> Iterator[tuple[int, int, bytes]]:
    """Take whole packets from the front of a buffer: kind, flags, body each. Raises BadMessageError for what is no MQTT."""
    at = 0
    try:
        while (found := _length(buffer, at)) is not None:
            begin, size = found
            if len(buffer) < begin + size:
                return
            head, body = buffer[at], bytes(buffer[begin : begin + size])
            at = begin + size
            yield head & 0xF0, head & 0x0F, body
    finally:
        del buffer[:at]


def arrived(flags: int, body: bytes, *, is_v5: bool) -> Arrived:
    """Return the message in a PUBLISH packet. Raises BadMessageError."""
    try:
        end = 2 + int.from_bytes(body[:2], "big")
        topic, mid = body[2:end].decode(), 0
        if flags & 0x06:
            mid, end = int.from_bytes(body[end : end + 2], "big"), end + 2
        if is_v5:
            begin, size = _length(body, end - 1) or (end, 0)
            end = begin + size
    except (IndexError, UnicodeDecodeError) as error:
        raise BadMessageError(f"the broker sent a message that cannot be read: {error}") from error
    return Arrived(topic, body[end:], mid, bool(flags & 0x01))


def _length(buffer: bytes | bytearray, at: int) -> tuple[int, int] | None:
    """Return where the body of the packet at `at` begins, and its length; None while that is not there."""
    size = shift = 0
    for place in range(at + 1, min(at + 5, len(buffer))):
        size |= (buffer[place] & 0x7F) << shift
        shift += 7
        if not buffer[place] & 0x80:
            if size > MAX_PACKET_BYTES:
                break
            return place + 1, size
    else:
        if len(buffer) < at + 5:
            return None
    raise BadMessageError("the broker sent what is no MQTT packet")


def _packet(head: int, body: bytes) -> bytes:
    size, length = len(body), bytearray()
    while True:
        size, digit = divmod(size, 128)
        length.append(digit | (0x80 if size else 0))
        if not size:
            return bytes((head,)) + bytes(length) + body


def _field(data: bytes) -> bytes:
    return len(data).to_bytes(2, "big") + data
