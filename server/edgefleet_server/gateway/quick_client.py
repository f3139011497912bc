"""A paho client that does for many messages at once what paho does for each.

It reaches into paho, and nothing else may. Where thousands of documents a second are published, paho takes more of
this process than signing them does (ADR 0062, ADR 0065):
- For every PUBACK of MQTT 5 it builds a table of all properties and two reason codes. A PUBACK without properties is a message id and
  perhaps one byte (MQTT 5 §3.4.2), so its reason is looked up instead, among reason codes that paho itself made.
- It reads a byte, a byte, and the rest of each packet from the socket, and writes each packet by itself. Each of these calls lets go of
  the interpreter's lock and waits for it again. Here reads take what is there, and what waits to be written is written together.
- It wakes the thread that writes for each message, also when that thread has not yet written the one before.
- For every message that comes it asks the socket three times, selects, and builds an object, a log line and a PUBACK of its own. Here
  plain PUBLISHes are cut out of what was read, and acknowledgements of many go in one piece (ADR 0104).

What goes over the wire, and what is heard of it, is the same. Whatever is longer, malformed or unknown goes paho's own way. A paho that
names its parts otherwise is used as it is.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, Final

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MessageType, MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

READ_AHEAD: Final = 16 * 1024
"""Bytes that are read at once: a TLS record holds no more."""
AT_ONCE: Final = 256 * 1024
"""Bytes that are taken before this thread writes and pings again."""
JOINED: Final = 64 * 1024
"""Bytes that are written at once, at most, unless one packet has more."""
_NEEDED: Final = (
    "_in_packet",
    "_manual_ack",
    "_out_packet",
    "_protocol",
    "_out_message_mutex",
    "_out_messages",
    "_sockpairW",
    "_thread",
    "_do_on_publish",
    "_handle_pubackcomp",
    "_packet_queue",
    "_packet_write",
    "_sock_recv",
    "_last_bytes_received",
    "_msgtime_mutex",
)
_KNOWN: Final = (0, 16, 128, 131, 135, 144, 145, 151, 153)
"""Reasons of a PUBACK, MQTT 5 table 3-4."""
_REASONS: Final = {b"": ReasonCode(PacketTypes.PUBACK)} | {
    bytes([value]): ReasonCode(PacketTypes.PUBACK, identifier=value) for value in _KNOWN
}
_NO_PROPERTIES: Final = Properties(PacketTypes.PUBACK)  # type: ignore[no-untyped-call]
Taker = Callable[[str, bytes, int], None]
"""Takes a topic, a payload and the message id, 0 where none is to be acknowledged. Called on paho's thread; must return at once."""
_PUBLISH: Final = 0x30
_IS_QOS1: Final = 0x02
_IS_QOS2: Final = 0x04
_Packet = dict[str, Any]
"""One packet that paho has yet to write; `pos` bytes of it are out."""


class QuickClient(paho.Client):
    """Answers as paho does, see above. All acknowledgements share the reason codes and the empty properties: nobody may change them."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        """See paho."""
        super().__init__(*arguments, **named)
        self._ahead = b""
        self._read = 0
        self._is_using_up = False
        self._taker: Taker | None = None
        self._filters: set[str] = set()

    def take_plain(self, taker: Taker) -> None:
        """Give plain messages to `taker`. `on_message` gets those with properties, of QoS 2, and all while filters are set."""
        self._taker = taker

    def ack_all(self, mids: Iterable[int]) -> None:
        """Acknowledge messages of QoS 1 in one piece. Thread-safe."""
        packets = b"".join(b"\x40\x02" + mid.to_bytes(2, "big") for mid in mids)
        if packets:
            self._packet_queue(MessageType.PUBACK, packets, 0, 0)

    def message_callback_add(self, sub: str, callback: Any) -> None:
        """See paho."""
        self._filters.add(sub)
        super().message_callback_add(sub, callback)

    def message_callback_remove(self, sub: str) -> None:
        """See paho."""
        self._filters.discard(sub)
        super().message_callback_remove(sub)

    def reconnect(self) -> MQTTErrorCode:
        """See paho; nothing of the connection before is read."""
        self._ahead, self._read = b"", 0
        return super().reconnect()

    # ---- what comes

    def loop_read(self, max_packets: int = 1) -> MQTTErrorCode:
        """See paho; then use up what is left that was read already: no socket would tell of it.

        Only AT_ONCE bytes are read for that, so that a stream without end lets this thread write, ping and stop in between.
        """
        if self._taker is None:
            result = super().loop_read(max_packets)
            return self._used_up(result, max_packets)
        read, result = 0, MQTTErrorCode.MQTT_ERR_SUCCESS
        while result == MQTTErrorCode.MQTT_ERR_SUCCESS:
            self._take(self._taker)
            if self._read < len(self._ahead):
                result = self._used_up(result, max_packets, once=True)
            elif read > AT_ONCE:
                break
            elif not self._has_more():
                return result if read and self._sock is not None else super().loop_read(max_packets)
            else:
                read += len(self._ahead)
        return result

    def _used_up(self, result: MQTTErrorCode, max_packets: int, *, once: bool = False) -> MQTTErrorCode:
        """Let paho handle what was read already, a packet or all."""
        self._is_using_up = True
        try:
            while result == MQTTErrorCode.MQTT_ERR_SUCCESS and self._read < len(self._ahead):
                result = super().loop_read(max_packets)
                if once:
                    break
        finally:
            self._is_using_up = False
        return result

    def _has_more(self) -> bool:
        """Read what the socket has; say whether it had any. What is wrong with it paho finds by itself."""
        self._ahead, self._read = b"", 0
        try:
            self._ahead = super()._sock_recv(READ_AHEAD)
        except (OSError, ValueError):
            return False
        return bool(self._ahead)

    def _take(self, taker: Taker) -> None:
        """Hand on the plain messages of which all was read."""
        if self._in_packet["command"] or self._filters:  # paho is in the middle of a packet
            return
        begin, is_v5, taken = self._read, self._protocol == paho.MQTTv5, []
        while (found := _plain(self._ahead, self._read, is_v5=is_v5)) is not None:
            topic, payload, mid, self._read = found
            taker(topic, payload, mid)
            if mid and not self._manual_ack:
                taken.append(mid)
        self.ack_all(taken)
        if self._read > begin:
            with self._msgtime_mutex:
                self._last_bytes_received = time.monotonic()

    def _sock_recv(self, bufsize: int) -> bytes:
        if self._read >= len(self._ahead):
            if self._is_using_up:
                raise BlockingIOError  # what the socket has is for the next time
            self._ahead, self._read = b"", 0
            self._ahead = super()._sock_recv(max(bufsize, READ_AHEAD))
        start, self._read = self._read, self._read + bufsize
        return self._ahead[start : self._read]

    def _handle_pubackcomp(self, cmd: str) -> MQTTErrorCode:
        packet = bytes(self._in_packet["packet"])
        reason = _REASONS.get(packet[2:]) if cmd == "PUBACK" and self._protocol == paho.MQTTv5 else None
        if reason is None or len(packet) < 2:  # not even a message id
            return super()._handle_pubackcomp(cmd)  # type: ignore[arg-type]  # paho names the two words
        mid = int.from_bytes(packet[:2], "big")
        with self._out_message_mutex:
            if mid in self._out_messages:
                return self._do_on_publish(mid, reason, _NO_PROPERTIES)
        return MQTTErrorCode.MQTT_ERR_SUCCESS

    # ---- what goes

    def _packet_queue(self, command: int, packet: Any, mid: int, qos: int, info: Any = None) -> MQTTErrorCode:
        if self._thread is None or not self._out_packet or not _is_joinable(command, qos):
            return super()._packet_queue(command, packet, mid, qos, info)
        # paho holds its lock of messages here, so these come one after the other
        self._out_packet.append(_packet_of(command, packet, mid, qos, info))  # type: ignore[arg-type]
        if (
            len(self._out_packet) == 1 and self._sockpairW is not None
        ):  # what was before is out: the writer may be asleep
            self._wake()
        return MQTTErrorCode.MQTT_ERR_SUCCESS

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):  # it is full of them
            self._sockpairW.send(b"0")  # type: ignore[union-attr]

    def _packet_write(self) -> MQTTErrorCode:
        """See paho. Packets are only added to, also to one whose beginning TLS has already: never cut, shortened or moved."""
        if threading.current_thread() is not self._thread:  # before it begins and after it ended several may write
            return super()._packet_write()
        waiting = [self._out_packet.popleft() for _ in range(len(self._out_packet))]  # nobody else takes from it
        self._out_packet.extendleft(reversed(joined(waiting)))
        return super()._packet_write()


def _plain(data: bytes, at: int, *, is_v5: bool) -> tuple[str, bytes, int, int] | None:
    """Return topic, payload, message id and end of the PUBLISH at a place; None for anything else, also for one that is not whole."""
    have = len(data)
    if have < at + 2 or data[at] & 0xF0 != _PUBLISH or data[at] & _IS_QOS2:
        return None
    is_confirmed = data[at] & _IS_QOS1
    size, begin = data[at + 1] & 127, at + 2
    shift = 7
    while data[begin - 1] & 128:
        if shift > 21 or begin >= have:
            return None
        size |= (data[begin] & 127) << shift
        begin, shift = begin + 1, shift + 7
    end = begin + size
    if end > have or size < 2:
        return None
    topic_end = begin + 2 + (data[begin] << 8 | data[begin + 1])
    payload = topic_end + (2 if is_confirmed else 0) + (1 if is_v5 else 0)
    if payload > end or (is_v5 and data[payload - 1]):
        return None
    mid = data[topic_end] << 8 | data[topic_end + 1] if is_confirmed else 0
    try:
        return data[begin + 2 : topic_end].decode(), data[payload:end], mid, end
    except UnicodeDecodeError:
        return None


def joined(packets: Iterable[Any]) -> list[Any]:
    """Return packets in their order, of which those next to each other that may be one are one, of at most `JOINED` bytes."""
    found: list[_Packet] = []
    for packet in packets:
        last = found[-1] if found else None
        if last is None or not (_is_whole(last) and _is_whole(packet)) or _size(last) + _size(packet) > JOINED:
            found.append(packet)
        elif "parts" in last:
            last["parts"].append(packet["packet"])
            last["to_process"] += _size(packet)
        else:
            both = _packet_of(packet["command"], b"", packet["mid"], packet["qos"], None)
            found[-1] = both | {"parts": [last["packet"], packet["packet"]], "to_process": _size(last) + _size(packet)}
    return [_closed(packet) for packet in found]


def _closed(packet: _Packet) -> _Packet:
    parts = packet.pop("parts", None)
    return packet if parts is None else packet | {"packet": b"".join(parts)}


def _packet_of(command: int, packet: Any, mid: int, qos: int, info: Any) -> _Packet:
    return {
        "command": command, "mid": mid, "qos": qos, "pos": 0, "to_process": len(packet), "packet": packet, "info": info,
    }  # fmt: skip


def _size(packet: _Packet) -> int:
    return int(packet["to_process"])


def _is_whole(packet: _Packet) -> bool:
    """Whether paho has not heard that anything of a packet is out, and does nothing when all of it is."""
    return packet["pos"] == 0 and _is_joinable(packet["command"], packet["qos"])


def _is_joinable(command: int, qos: int) -> bool:
    return command & 0xF0 == MessageType.PUBLISH and qos == 1


def client_type() -> type[paho.Client]:
    """Return the client to use: the quick one where paho has the parts that it needs."""
    probe = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
    return QuickClient if all(hasattr(probe, name) for name in _NEEDED) else paho.Client
