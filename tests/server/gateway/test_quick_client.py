"""The quick client sends what paho sends, and hears of what comes what paho hears."""

import threading
from socket import socketpair
from typing import Any

import paho.mqtt.client as paho
import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode

from edgefleet_server.gateway import quick_client

Heard = list[tuple[Any, ...]]


def heard(kind: type[paho.Client], packet: bytes, protocol: int, cmd: str) -> tuple[Heard, str]:
    """Return what a client with two messages on their way tells of a packet, and the error that it raises."""
    client = kind(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5 if protocol == 5 else paho.MQTTv311)
    told: Heard = []
    infos = [client.publish("a/topic", b"x", qos=1) for _ in range(2)]
    client.on_publish = lambda _client, _data, mid, reason, properties: told.append(
        (mid, reason.value, str(reason), reason.is_failure, reason.packetType, properties.json(), properties.packetType)
    )
    client._in_packet = {"command": 0x40, "packet": bytearray(packet)}  # type: ignore[typeddict-item]
    error = ""
    try:
        told.append((client._handle_pubackcomp(cmd),))  # type: ignore[arg-type]
    except Exception as raised:  # noqa: BLE001  # whatever paho raises, the other must, too
        error = type(raised).__name__
    told += [(info.rc, info._published, len(client._out_messages)) for info in infos]
    return told, error


def agree(packet: bytes, protocol: int = 5, cmd: str = "PUBACK") -> tuple[Heard, str]:
    """Hold that both hear the same; return it."""
    quick = heard(quick_client.QuickClient, packet, protocol, cmd)
    assert quick == heard(paho.Client, packet, protocol, cmd)
    return quick


@pytest.mark.parametrize("protocol", [5, 4])
@pytest.mark.parametrize("cmd", ["PUBACK", "PUBCOMP"])
@pytest.mark.parametrize(
    "rest", [b"", b"\x00", b"\x10", b"\x10\x00", b"\x80", b"\x87", b"\x97", b"\x00\x00", b"\x01", b"\xff"]
)
@pytest.mark.parametrize("mid", [1, 2, 3, 65_535])
def test_every_acknowledgement_says_the_same(mid: int, rest: bytes, cmd: str, protocol: int) -> None:
    agree(mid.to_bytes(2, "big") + rest, protocol, cmd)


@given(st.binary(max_size=12) | st.binary(max_size=5).map(lambda more: b"\x00\x01" + more))
def test_any_bytes_say_the_same(packet: bytes) -> None:
    agree(packet)


def test_a_reason_string_is_read_by_paho_itself() -> None:
    told, error = agree(b"\x00\x01\x97\x08\x1f\x00\x05quota")
    assert not error
    assert told[0][:4] == (1, 0x97, "Quota exceeded", True)
    assert told[0][5] == {"ReasonString": "quota"}


def test_the_quick_client_is_used_and_a_paho_that_names_its_parts_otherwise_is_used_as_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert quick_client.client_type() is quick_client.QuickClient
    monkeypatch.setattr(quick_client, "_NEEDED", (*quick_client._NEEDED, "_renamed"))
    assert quick_client.client_type() is paho.Client


class FakeSocket:
    """Takes and gives bytes in the pieces that are drawn; a piece of 0 is a socket that would block. fileno: of no socket."""

    def __init__(self, pieces: list[int], coming: bytes = b"") -> None:
        self.pieces = pieces
        self.calls = 0
        self.out = bytearray()
        self.coming = coming

    def _piece(self, most: int) -> int:
        self.calls += 1
        piece = self.pieces[self.calls % len(self.pieces)] if self.pieces else most
        if piece == 0:
            raise BlockingIOError
        return min(piece, most)

    def send(self, data: bytes | bytearray) -> int:
        taken = self._piece(len(data))
        self.out += data[:taken]
        return taken

    def recv(self, size: int) -> bytes:
        if not self.coming:
            raise BlockingIOError
        taken = self._piece(size)
        found, self.coming = self.coming[:taken], self.coming[taken:]
        return found

    def close(self) -> None:
        """Do nothing."""


PIECES = st.lists(st.integers(0, 400), max_size=6).filter(lambda pieces: not pieces or any(pieces))
MESSAGES = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 70_000) | st.integers(0, 40)), max_size=12)


def client_on(kind: type[paho.Client], socket: FakeSocket) -> paho.Client:
    """Return a client that thinks it is connected, with a thread that writes for it."""
    client = kind(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
    client.max_inflight_messages_set(0)
    client._sock = socket  # type: ignore[assignment]
    client._thread = threading.current_thread()
    return client


def written(
    kind: type[paho.Client], messages: list[tuple[int, int]], pieces: list[int]
) -> tuple[bytes, list[int], FakeSocket]:
    """Return what goes over the wire of some messages (QoS, bytes), and which of QoS 0 are said to be out."""
    socket, said = FakeSocket(pieces), []
    client = client_on(kind, socket)
    client.on_publish = lambda _client, _data, mid, _reason, _properties: said.append(mid)
    for number, (qos, size) in enumerate(messages):
        client.publish(f"a/{number}", bytes([number % 256]) * size, qos=qos, retain=number % 2 == 0)
        if number % 5 == 4:
            client._packet_write()
    while client._out_packet:
        client._packet_write()
    return bytes(socket.out), said, socket


@given(MESSAGES, PIECES)
def test_the_same_goes_over_the_wire(messages: list[tuple[int, int]], pieces: list[int]) -> None:
    assert written(quick_client.QuickClient, messages, pieces)[:2] == written(paho.Client, messages, pieces)[:2]


def test_what_waits_is_written_together_and_no_more_than_so_much() -> None:
    messages = [(1, 700)] * 1_000
    *_, quick = written(quick_client.QuickClient, messages, [])
    *_, plain = written(paho.Client, messages, [])
    assert (quick.out, plain.calls, quick.calls) == (plain.out, 1_000, 200)  # five wait at a time
    packets = [quick_client._packet_of(0x32, b"x" * 1_000, 1, 1, None) for _ in range(200)]
    sizes = [len(one["packet"]) for one in quick_client.joined(packets)]
    assert sizes == [65_000, 65_000, 65_000, 5_000]


def heard_of(kind: type[paho.Client], coming: bytes, pieces: list[int], *, is_plain: bool = False) -> tuple[Heard, Any]:
    """Return what a client hears of bytes that come, and how its reading ended. is_plain: plain messages are taken by themselves."""
    client, told = client_on(kind, FakeSocket(pieces, coming)), Heard()
    if is_plain and isinstance(client, quick_client.QuickClient):
        client.take_plain(lambda topic, payload, mid: told.append((topic, payload, int(mid > 0), mid)))
    for _ in range(3):
        client.publish("a/topic", b"x", qos=1)
    client.on_message = lambda _client, _data, one: told.append((one.topic, one.payload, one.qos, one.mid))
    client.on_publish = lambda _client, _data, mid, reason, _properties: told.append((mid, reason.value))
    result = MQTTErrorCode.MQTT_ERR_SUCCESS
    socket: Any = client._sock
    while socket.coming and client._sock is not None and not result:
        result = client.loop_read()
    if client._sock is not None and not result:  # a packet that ends with its 100th read is handled the next time
        result = client.loop_read()
    return told, (result, bytes(client._in_packet["packet"]), client._in_packet["command"])


def message(number: int, size: int, qos: int, properties: bytes = b"") -> bytes:
    """Return a PUBLISH as a broker sends it."""
    head = (number.to_bytes(2, "big") if qos else b"") + bytes([len(properties)]) + properties
    rest = b"\x00\x03a/b" + head + bytes([number % 256]) * size
    length, left = b"", len(rest)
    while not length or left:
        left, digit = divmod(left, 128)
        length += bytes([digit | (128 if left else 0)])
    return bytes([0x30 | qos << 1]) + length + rest


COMING = st.lists(
    st.builds(
        message,
        st.integers(1, 9),
        st.integers(0, 300) | st.just(40_000),
        st.integers(0, 1),
        st.sampled_from([b"", b"", b"\x01\x01"]),
    )
    | st.integers(1, 4).map(lambda mid: b"\x40\x02\x00" + bytes([mid]))
    | st.just(b"\xd0\x00"),
    max_size=12,
).map(b"".join)


@pytest.mark.parametrize("is_plain", [False, True])
@given(coming=COMING, pieces=PIECES)
def test_the_same_is_heard_of_what_comes(coming: bytes, pieces: list[int], is_plain: bool) -> None:
    quick = heard_of(quick_client.QuickClient, coming, pieces, is_plain=is_plain)
    assert quick == heard_of(paho.Client, coming, pieces)


def has_a_first_byte_of_zero(data: bytes) -> bool:
    """Whether a packet begins with a zero, which MQTT forbids. data: packets, the last of which may be cut short.

    paho keeps 0 for "no first byte was read yet". When the rest of such a packet comes later, it reads the next byte as the first, so
    what paho itself hears hangs on where the bytes were cut.
    """
    at = 0
    while at < len(data) and data[at]:
        size, shift, at = 0, 0, at + 1
        while at < len(data):
            size, shift, at = size | (data[at] & 127) << shift, shift + 7, at + 1
            if data[at - 1] < 128:
                break
        at += size
    return at < len(data)


@pytest.mark.parametrize("is_plain", [False, True])
@given(
    coming=COMING,
    more=st.binary(min_size=1, max_size=8).filter(lambda more: not has_a_first_byte_of_zero(more)),
    pieces=PIECES,
)
def test_the_same_is_heard_of_what_comes_broken(coming: bytes, more: bytes, pieces: list[int], is_plain: bool) -> None:
    quick = heard_of(quick_client.QuickClient, coming + more, pieces, is_plain=is_plain)
    assert quick == heard_of(paho.Client, coming + more, pieces)


@pytest.mark.parametrize(
    ("data", "has"),
    [
        (b"\x00", True),
        (b"\xd0\x00\x00", True),
        (b"\xd0\x00\xd0", False),
        (b"\x40\x02\x00\x00", False),
        (b"\x40\x81\x00\x01\x00", True),
    ],
)
def test_a_first_byte_of_zero_is_found(data: bytes, has: bool) -> None:
    assert has_a_first_byte_of_zero(data) is has


def test_messages_under_a_filter_go_to_its_callback() -> None:
    client, plain, filtered = client_on(quick_client.QuickClient, FakeSocket([], message(3, 4, 1))), Heard(), Heard()
    assert isinstance(client, quick_client.QuickClient)
    client.take_plain(lambda topic, payload, mid: plain.append((topic, payload, mid)))
    client.message_callback_add("a/#", lambda _client, _data, one: filtered.append((one.topic,)))
    client.loop_read()
    assert (plain, filtered) == ([], [("a/b",)])
    client.message_callback_remove("a/#")
    client._sock.coming = message(4, 4, 1)  # type: ignore[union-attr]
    client.loop_read()
    assert plain == [("a/b", b"\x04" * 4, 4)]


@pytest.mark.parametrize("is_manual", [False, True])
def test_plain_messages_are_acknowledged_at_once_unless_that_is_somebody_elses_work(is_manual: bool) -> None:
    coming = message(3, 4, 1) + message(4, 4, 0) + message(5, 4, 1)
    written = []
    for kind in (quick_client.QuickClient, paho.Client):
        client = client_on(kind, FakeSocket([], coming))
        client.manual_ack_set(is_manual)
        if isinstance(client, quick_client.QuickClient):
            client.take_plain(lambda _topic, _payload, _mid: None)
        client.on_message = lambda _client, _data, _message: None
        for _ in range(3):
            client.loop_read()
        client._packet_write()
        socket: Any = client._sock
        written.append(bytes(socket.out))
    assert written == [b"" if is_manual else b"\x40\x02\x00\x03\x40\x02\x00\x05"] * 2


def test_acknowledgements_of_many_are_written_at_once() -> None:
    client = client_on(quick_client.QuickClient, FakeSocket([]))
    assert isinstance(client, quick_client.QuickClient)
    client.ack_all(range(1, 400))
    client.ack_all([])
    client._packet_write()
    socket: Any = client._sock
    assert bytes(socket.out) == b"".join(b"\x40\x02" + mid.to_bytes(2, "big") for mid in range(1, 400))
    assert socket.calls == 1


def test_many_acknowledgements_are_read_at_once() -> None:
    coming = b"".join(b"\x40\x02" + mid.to_bytes(2, "big") for mid in range(1, 1_001))
    client = client_on(quick_client.QuickClient, FakeSocket([], coming))
    infos = [client.publish("a/topic", b"x", qos=1) for _ in range(1_000)]
    socket: Any = client._sock
    socket.calls = 0
    client.loop_read()
    assert all(info.is_published() for info in infos)
    assert socket.calls == 1
    client.loop_read()  # nothing is left, and nothing more comes
    assert not client._out_messages


def test_who_writes_is_woken_when_nothing_waited_before() -> None:
    client = client_on(quick_client.QuickClient, FakeSocket([]))
    ours, theirs = socketpair()
    ours.setblocking(False)
    with ours, theirs:
        client._sockpairW = theirs
        for qos in (1, 1, 1, 0):
            client.publish("a/topic", b"x", qos=qos)
        assert ours.recv(100) == b"00", "for the first one, and for the one that is not of QoS 1"
        client._packet_write()
        client.publish("a/topic", b"x", qos=1)
        assert ours.recv(100) == b"0"


class Stream(FakeSocket):
    """Gives the same message without end, in pieces that end within one."""

    def __init__(self, one: bytes) -> None:
        super().__init__([])
        self.one = one

    def recv(self, size: int) -> bytes:
        assert self.calls < 100, "nobody else comes to his turn"
        begin = self.calls * 150 % len(self.one)
        self.calls += 1
        return (self.one * 4)[begin : begin + 150]


def test_a_stream_without_end_lets_others_come_to_their_turn() -> None:
    client, told = client_on(quick_client.QuickClient, Stream(message(7, 90, 0))), Heard()
    client.on_message = lambda _client, _data, one: told.append((one.payload,))
    for _ in range(5):
        client.loop_read()
    assert told == [(b"\x07" * 90,)] * len(told)
    assert 5 <= len(told) <= 10, "a packet, and what was read with it"


def test_a_stream_of_plain_messages_lets_others_come_to_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quick_client, "AT_ONCE", 1_000)
    client, told = client_on(quick_client.QuickClient, Stream(message(7, 90, 0))), Heard()
    assert isinstance(client, quick_client.QuickClient)
    client.take_plain(lambda _topic, payload, _mid: told.append((payload,)))
    client.on_message = lambda _client, _data, one: told.append((one.payload,))
    for _ in range(5):
        client.loop_read()
    assert told == [(b"\x07" * 90,)] * len(told)
    assert len(told) > 40


@pytest.mark.parametrize("thread", [None, threading.Thread()], ids=["it-ended", "another-thread"])
def test_who_is_not_the_thread_that_writes_writes_as_paho_does(thread: threading.Thread | None) -> None:
    """Several may write then: what one has taken out to join it another would miss."""
    socket = FakeSocket([])
    client = client_on(quick_client.QuickClient, socket)
    for _ in range(5):
        client.publish("a/topic", b"x", qos=1)
    client._thread = thread
    client._packet_write()
    assert socket.calls == 5


def test_nothing_of_an_old_connection_is_read() -> None:
    client: Any = client_on(quick_client.QuickClient, FakeSocket([]))
    client._ahead, client._read = b"rest", 1
    with pytest.raises(ValueError, match="Invalid host"):
        client.reconnect()
    assert (client._ahead, client._read) == (b"", 0)
