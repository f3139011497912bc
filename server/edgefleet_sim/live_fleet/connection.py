"""One connection of a simulated device: TCP, mutual TLS, MQTT, on a non-blocking socket of its own, without a stream or a transport.

All connections of a process share one SSLContext: OpenSSL copies the certificate into a session as the session is made, so it is loaded
before each. A context of its own would cost each device 28 KB more (measured: OpenSSL 3, P-256).
Source: ADR 0148.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum, auto
from pathlib import Path
from typing import Any, Final, Protocol

from edgefleet_protocol.errors import BadMessageError
from edgefleet_protocol.ids import DeviceId
from edgefleet_protocol.shards import Act, Step
from edgefleet_protocol.topics import Topics
from edgefleet_sim.live_fleet import mqtt_packets as packets
from edgefleet_sim.live_fleet.wire_device import Said, SimulatedDevice

READ_BYTES: Final = 32 * 1024
WILL_DELAY_S: Final = 15
SESSION_S: Final = 7 * 86_400
REFUSED_FROM: Final = 0x80


class Owner(Protocol):
    """What hears of connections."""

    def came_up(self, link: Link) -> None:
        """The broker took the connection and the subscriptions."""
        ...

    def heard(self, link: Link, message: packets.Arrived) -> None:
        """A message came."""
        ...

    def ended(self, link: Link, reason: str) -> None:
        """It is over. reason: "" when this side ended it."""
        ...


@dataclass(frozen=True)
class Way:
    """What all connections of a process share. certificate_of: file with certificate and key of a device, by its number."""

    loop: asyncio.AbstractEventLoop
    address: tuple[Any, ...]
    host: str
    family: socket.AddressFamily
    context: ssl.SSLContext
    topics: Topics
    certificate_of: Callable[[int], Path]
    keepalive_s: int
    is_v5: bool


def way_to(  # noqa: PLR0913 - what a connection needs, once a process
    loop: asyncio.AbstractEventLoop,
    host: str,
    port: int,
    *,
    ca_file: Path,
    topics: Topics,
    certificate_of: Callable[[int], Path],
    keepalive_s: int,
    is_v5: bool,
) -> Way:
    """Return the way to a broker. Raises OSError."""
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(ca_file)
    return Way(loop, address, host, family, context, topics, certificate_of, keepalive_s, is_v5)


class _At(IntEnum):
    DIALLING = auto()
    SHAKING = auto()
    ASKING = auto()
    SUBSCRIBING = auto()
    UP = auto()
    OVER = auto()


class Link:
    """One connection, from `open` to its end. bytes_in, bytes_out: of MQTT, without TLS."""

    __slots__ = (
        "_at", "_buffer", "_is_writing", "_mid", "_out", "_owner", "_shards_mid", "_sock", "_way", "began_s", "bytes_in", "bytes_out",
        "device", "last_s", "was_up",
    )  # fmt: skip

    def __init__(self, device: SimulatedDevice, way: Way, owner: Owner) -> None:
        self.device = device
        self._way, self._owner = way, owner
        self._buffer: bytearray | None = None
        self._out: bytearray | None = None
        self._mid = self._shards_mid = self.bytes_in = self.bytes_out = 0
        self._is_writing = self.was_up = False
        self._at = _At.DIALLING
        self.began_s = self.last_s = way.loop.time()
        self._sock: socket.socket = socket.socket(way.family, socket.SOCK_STREAM)

    @property
    def is_up(self) -> bool:
        """Whether messages can be sent."""
        return self._at is _At.UP

    def open(self, will: bytes) -> None:
        """Begin to connect. will: the payload that the broker publishes when this connection is lost."""
        self._sock.setblocking(False)
        self._out = bytearray(self._connect_packet(will))
        try:
            self._sock.connect_ex(self._way.address)
            self._way.loop.add_writer(self._sock.fileno(), self._writable)
            self._is_writing = True
        except OSError as error:
            self.end(str(error))

    def say(self, said: Said) -> None:
        """Send a message."""
        mid = self._next_mid() if said.is_sure else 0
        topic = f"{self._way.topics.prefix}/d/{self.device.id}/up/{said.leaf}"
        self._send(packets.publish(topic, said.payload, mid, is_v5=self._way.is_v5, is_retained=said.is_retained))

    def acknowledge(self, mid: int) -> None:
        """Acknowledge a message of the broker."""
        self._send(packets.puback(mid))

    def ping(self) -> None:
        """Say that this side is there."""
        self._send(packets.PINGREQ_PACKET)

    def goodbye(self) -> None:
        """Say that this side leaves, and end."""
        self._send(packets.DISCONNECT_PACKET)
        self.end("")

    def go(self, step: Step, first: tuple[tuple[str, int], ...] = ()) -> None:
        """Take a step between the shared topics and those of the shard. first: what else to subscribe to with it."""
        self.device.shards, acts = step
        if not acts:
            return
        topics, device, is_v5 = self._way.topics, DeviceId(self.device.id), self._way.is_v5
        shared = topics.device_subscriptions(device)[-2:]
        for act in acts:
            if act is Act.SUBSCRIBE_SHARED:
                self._send(packets.subscribe(self._next_mid(), (*first, *shared), is_v5=is_v5))
            elif act is Act.SUBSCRIBE_SHARDS:
                mid = self._shards_mid = self._next_mid()
                filters = (*first, *topics.shard_subscriptions(device))
                self._send(packets.subscribe(mid, filters, is_v5=is_v5))
            elif act is Act.UNSUBSCRIBE_SHARED:
                self._send(packets.unsubscribe(self._next_mid(), [name for name, _ in shared], is_v5=is_v5))

    def end(self, reason: str) -> None:
        """End the connection at once: without a goodbye the broker sends the will."""
        if self._at is _At.OVER:
            return
        self._at = _At.OVER
        fileno = self._sock.fileno()
        if fileno >= 0:
            self._way.loop.remove_reader(fileno)
            self._way.loop.remove_writer(fileno)
        self._sock.close()
        self._owner.ended(self, reason)

    # ---- within

    def _connect_packet(self, will: bytes) -> bytes:
        topic = self._way.topics.presence(DeviceId(self.device.id))
        said = packets.Will(topic, will, WILL_DELAY_S)
        return packets.connect(self.device.id, said, self._way.keepalive_s, is_v5=self._way.is_v5, session_s=SESSION_S)

    def _writable(self) -> None:
        try:
            if self._at is _At.DIALLING:
                self._secure()
            if self._at is _At.SHAKING:
                self._shake()
            else:
                self._flush()
        except (OSError, ValueError) as error:
            self.end(_reason(error))

    def _secure(self) -> None:
        """Begin TLS on the connected socket, with the certificate of this device."""
        error = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            raise OSError(error, os.strerror(error))
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        fileno = self._sock.fileno()
        self._way.loop.remove_writer(fileno)
        self._is_writing = False
        self._way.context.load_cert_chain(self._way.certificate_of(self.device.number))
        self._sock = self._way.context.wrap_socket(
            self._sock, server_hostname=self._way.host, do_handshake_on_connect=False
        )
        self._at = _At.SHAKING
        self._way.loop.add_reader(self._sock.fileno(), self._readable)

    def _shake(self) -> None:
        assert isinstance(self._sock, ssl.SSLSocket)
        try:
            self._sock.do_handshake()
        except ssl.SSLWantReadError:
            self._watch_writing(False)
        except ssl.SSLWantWriteError:
            self._watch_writing(True)
        else:
            self._at = _At.ASKING
            self._flush()

    def _readable(self) -> None:
        try:
            if self._at is _At.SHAKING:
                self._shake()
            if self._at in {_At.SHAKING, _At.OVER}:
                return
            self._read()
        except (OSError, ValueError, BadMessageError) as error:
            self.end(_reason(error))

    def _read(self) -> None:
        buffer = self._buffer if self._buffer is not None else bytearray()
        try:
            while self._at is not _At.OVER:
                data = self._sock.recv(READ_BYTES)
                if not data:
                    self.end("the broker ended the connection")
                    return
                buffer += data
        except (ssl.SSLWantReadError, BlockingIOError):
            pass
        except ssl.SSLWantWriteError:
            self._watch_writing(True)
        had = len(buffer)
        for kind, flags, body in packets.take_packets(buffer):
            self._take(kind, flags, body)
            if self._at is _At.OVER:
                return
        self.bytes_in += had - len(buffer)
        self._buffer = buffer or None

    def _take(self, kind: int, flags: int, body: bytes) -> None:
        if kind == packets.PUBLISH:
            self._owner.heard(self, packets.arrived(flags, body, is_v5=self._way.is_v5))
        elif kind == packets.CONNACK:
            if len(body) < 2 or body[1]:
                self.end(f"the broker refused the connection: code {body[1] if len(body) > 1 else '?'}")
                return
            self._at = _At.SUBSCRIBING
            mine = self._way.topics.device_subscriptions(DeviceId(self.device.id))
            self.go(self.device.shards.connected(self._way.loop.time()), mine[:-2])
        elif kind == packets.SUBACK:
            self._subscribed(body)
        elif kind == packets.UNSUBACK:
            self.go(self.device.shards.left())
        elif kind == packets.DISCONNECT:
            self.end("the broker said goodbye")

    def _subscribed(self, body: bytes) -> None:
        if self._at is _At.SUBSCRIBING:
            self._at, self.was_up = _At.UP, True
            self._owner.came_up(self)
        if int.from_bytes(body[:2], "big") == self._shards_mid:
            is_granted = all(code < REFUSED_FROM for code in body[-2:])
            self.go(self.device.shards.granted(is_granted, self._way.loop.time()))

    def _next_mid(self) -> int:
        self._mid = self._mid % 0xFFFF + 1
        return self._mid

    def _send(self, data: bytes) -> None:
        if self._at is _At.OVER:
            return
        self.last_s = self._way.loop.time()
        self.bytes_out += len(data)
        if self._out:
            self._out += data
            return
        self._out = bytearray(data)
        try:
            self._flush()
        except (OSError, ValueError) as error:
            self.end(_reason(error))

    def _flush(self) -> None:
        try:
            while self._out:
                sent = self._sock.send(self._out)
                del self._out[:sent]
        except (ssl.SSLWantWriteError, BlockingIOError):
            self._watch_writing(True)
            return
        except ssl.SSLWantReadError:
            self._watch_writing(False)
            return
        self._out = None
        self._watch_writing(False)

    def _watch_writing(self, wanted: bool) -> None:
        if wanted is self._is_writing:
            return
        self._is_writing = wanted
        fileno = self._sock.fileno()
        if wanted:
            self._way.loop.add_writer(fileno, self._writable)
        else:
            self._way.loop.remove_writer(fileno)


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__
