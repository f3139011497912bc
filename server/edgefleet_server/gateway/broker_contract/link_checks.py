"""How links end: wills, keepalive, take-over, and packets that nobody should send (ADR 0006)."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl

from edgefleet_server.gateway.broker.connect_gate import Connect
from edgefleet_server.gateway.broker_contract.errors import UnmetError
from edgefleet_server.gateway.broker_contract.link_client import LinkClient, LinkOptions
from edgefleet_server.gateway.broker_contract.stand import Stand, device_of
from edgefleet_server.gateway.mqtt import LinkIdentity

MIB = 1024 * 1024
_HUGE = b"\x30\xff\xff\xff\x7f"  # the head of a PUBLISH of 256 MiB
_AFTER_CONNECT = (
    b"\xf0\x00",
    b"\x82\x02\x00\x00",
    b"\x30\x02\xff\xff",
    b"\x32\x05\x00\x01a\x00\x00",
    b"\x62\x00",
)
_INSTEAD = (b"GET / HTTP/1.1\r\n\r\n", b"\x10\xff\xff\xff\xff\x7f", b"\x10\x00", b"\x10\x02\x00\x04", b"\xf0\x00")


def _with_will(stand: Stand, identity: LinkIdentity, *, clean: bool = True, keepalive_s: int = 60) -> LinkClient:
    will = (stand.topics.presence(device_of(identity)), b"gone", 1, True)
    return stand.client(identity, LinkOptions(clean=clean, keepalive_s=keepalive_s, will=will))


def will_after_a_crash(stand: Stand) -> str:
    """The will of a device whose connection breaks is sent at once, and retained."""
    identity = stand.device()
    presence = stand.topics.presence(device_of(identity))
    server = stand.server()
    server.subscribe((presence, 1))
    _with_will(stand, identity).cut()
    _expect(server.wait_count(1) == [b"gone"], "another message came")
    late = stand.server(second=True)
    late.subscribe((presence, 1))
    _expect(late.wait_count(1) == [b"gone"], "it was not retained")
    return "sent and retained"


def no_will_after_disconnect(stand: Stand) -> str:
    """A device that says DISCONNECT has no will sent."""
    identity = stand.device()
    me = device_of(identity)
    server = stand.server()
    server.subscribe((stand.topics.presence(me), 1), (stand.topics.event(me), 1))
    _with_will(stand, identity).disconnect()
    stand.client(identity).publish(stand.topics.event(me), b"back")
    server.wait_for(b"back")
    _expect(server.payloads() == [b"back"], "the will was sent")
    return "not sent"


def frozen_device_is_noticed(stand: Stand) -> str:
    """A device that falls silent has its will sent when one and a half times its keepalive is over."""
    identity = stand.device()
    server = stand.server()
    server.subscribe((stand.topics.presence(device_of(identity)), 1))
    _with_will(stand, identity, keepalive_s=2).freeze()
    server.wait_for(b"gone")
    return "noticed, keepalive 2 s"


def pinging_device_stays(stand: Stand) -> str:
    """A device that only pings stays connected."""
    identity = stand.device()
    me = device_of(identity)
    device = _with_will(stand, identity, keepalive_s=1)
    server = stand.server()
    server.subscribe((stand.topics.event(me), 1))
    _expect(not device.is_closed.wait(4.0), "its connection was ended")
    device.publish(stand.topics.event(me), b"here")
    server.wait_for(b"here")
    return "stays, keepalive 1 s"


def newer_link_takes_over(stand: Stand) -> str:
    """A device that returns while its older link is half open gets a link that works; the older one is closed and given nothing."""
    for clean in (False, True):
        identity = stand.device()
        me = device_of(identity)
        server = stand.server()
        older = _with_will(stand, identity, clean=clean)
        older.subscribe((stand.topics.desired(me), 1))
        older.freeze()
        newer = _with_will(stand, identity, clean=clean)
        newer.subscribe((stand.topics.desired(me), 1))
        stand.fence(server, newer, stand.topics.desired(me), b"for the newer link")
        older.thaw()
        _expect(older.is_closed.wait(stand.patience_s), "the older link stays open")
        _expect(older.payloads() == [], "the older link was sent a message")
        stand.fence(server, newer, stand.topics.desired(me), b"and once more")
        _expect(not newer.is_closed.is_set(), "the newer link was closed")
        stand.close()
    return "clean and kept sessions"


def last_of_many_links_works(stand: Stand) -> str:
    """After ten take-overs in a row the last link works and the others are closed."""
    identity = stand.device()
    me = device_of(identity)
    server = stand.server()
    links = [_with_will(stand, identity, clean=False) for _ in range(10)]
    links[-1].subscribe((stand.topics.desired(me), 1))
    stand.fence(server, links[-1], stand.topics.desired(me), b"hello")
    _expect(all(link.is_closed.wait(stand.patience_s) for link in links[:-1]), "an older link stays open")
    return "9 closed, 1 works"


def huge_packet_ends_its_own_link(stand: Stand) -> str:
    """A device that announces a packet of 256 MiB is cut off, and nobody else is."""
    identity, other = stand.device(), stand.device()
    server, neighbour = stand.server(), stand.client(other)
    server.subscribe((stand.topics.event(device_of(other)), 1))
    with _tls_socket(stand, identity) as sock:
        sock.sendall(_connect_packet(identity.name))
        _expect(sock.recv(5)[:1] == b"\x20", "no CONNACK for MQTT 3.1.1")
        sock.sendall(_HUGE)
        with contextlib.suppress(OSError):
            for _ in range(64):
                sock.sendall(b"\0" * 65_536)
        _expect(_ended(sock), "the link stays open after 4 MiB of it")
    neighbour.publish(stand.topics.event(device_of(other)), b"still here")
    server.wait_for(b"still here")
    return "its link ends, others go on"


def garbage_ends_its_own_link(stand: Stand) -> str:
    """Bytes that are no MQTT, before and after the CONNECT, end no link but their own."""
    identity, other = stand.device(), stand.device()
    you = device_of(other)
    server, neighbour = stand.server(), stand.client(other)
    server.subscribe((stand.topics.event(you), 1))
    connect = _connect_packet(identity.name)
    tails = (*_AFTER_CONNECT, connect, os.urandom(300))
    for first in (*_INSTEAD, os.urandom(600), *(connect + tail for tail in tails)):
        with _tls_socket(stand, identity) as sock, contextlib.suppress(OSError):
            sock.sendall(first)
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(4096):
                pass
    neighbour.publish(stand.topics.event(you), b"still here")
    server.wait_for(b"still here")
    stand.client(identity)
    return f"{len(_INSTEAD) + len(tails) + 1} kinds of garbage"


def _tls_socket(stand: Stand, identity: LinkIdentity) -> ssl.SSLSocket:
    context = ssl.create_default_context(cafile=str(stand.server_ca))
    context.load_cert_chain(identity.cert_file, identity.key_file)
    raw = socket.create_connection((stand.endpoint.host, stand.endpoint.port), timeout=stand.patience_s)
    return context.wrap_socket(raw, server_hostname=stand.endpoint.host)


def _connect_packet(name: str) -> bytes:
    return Connect(name, clean_session=True, keepalive_s=0).packet(60)


def _ended(sock: socket.socket) -> bool:
    try:
        return sock.recv(4096) == b""
    except TimeoutError:
        return False
    except OSError:
        return True


def _expect(fact: object, otherwise: str) -> None:
    if not fact:
        raise UnmetError(otherwise)
