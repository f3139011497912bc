"""A paho client under full control of a check: it loops only when told, so it can freeze, and its socket can be cut."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from edgefleet_server.gateway.broker.model import BrokerEndpoint
from edgefleet_server.gateway.broker_contract.errors import ClientRefusedError, UnmetError
from edgefleet_server.gateway.mqtt import LinkIdentity

PATIENCE_S: Final = 20.0
SESSION_S: Final = 3600

Fact = TypeVar("Fact")


def eventually(fact: Callable[[], Fact], what: str, patience_s: float = PATIENCE_S) -> Fact:
    """Wait until `fact()` is true and return it. Raises UnmetError with `what` after that time."""
    end = time.monotonic() + patience_s
    while time.monotonic() < end:
        if got := fact():
            return got
        time.sleep(0.005)
    raise UnmetError(f"did not happen within {patience_s:.0f} s: {what}")


@dataclass(frozen=True, slots=True)
class LinkOptions:
    """How a client connects. will: topic, payload, QoS, retain. mqtt: another version than the endpoint's."""

    clean: bool = True
    keepalive_s: int = 60
    will: tuple[str, bytes, int, bool] | None = None
    manual_ack: bool = False
    mqtt: str = ""


class LinkClient:
    """One MQTT connection."""

    def __init__(
        self,
        endpoint: BrokerEndpoint,
        identity: LinkIdentity | None,
        options: LinkOptions = LinkOptions(),
        *,
        client_id: str | None = None,
        ca_file: Path | None = None,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._endpoint = endpoint
        self._options = options
        self._patience_s = patience_s
        self._is_v5 = (options.mqtt or endpoint.mqtt) == "5"
        name = client_id if client_id is not None else identity.name if identity else ""
        kwargs: dict[str, Any] = {} if self._is_v5 else {"clean_session": options.clean}
        self._mqtt = mqtt.Client(
            CallbackAPIVersion.VERSION2,
            client_id=name,
            protocol=mqtt.MQTTv5 if self._is_v5 else mqtt.MQTTv311,
            manual_ack=options.manual_ack,
            **kwargs,
        )
        context = ssl.create_default_context(cafile=str(ca_file or endpoint.ca_file))
        if identity is not None:
            context.load_cert_chain(identity.cert_file, identity.key_file)
        self._mqtt.tls_set_context(context)
        if options.will is not None:
            self._mqtt.will_set(*options.will)
        self.messages: list[mqtt.MQTTMessage] = []
        self.connack: int | None = None
        self.session_present = False
        self.is_closed = threading.Event()
        self.acks: dict[int, int] = {}
        self._subacks: dict[int, list[int]] = {}
        self._loop_on = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, daemon=True)
        self._wire()

    def _wire(self) -> None:
        def on_connect(_c: Any, _u: Any, flags: Any, reason: Any, _p: Any) -> None:
            self.session_present = bool(flags.session_present)
            self.connack = reason.value

        def on_message(_c: Any, _u: Any, message: mqtt.MQTTMessage) -> None:
            self.messages.append(message)

        def on_subscribe(_c: Any, _u: Any, mid: int, reasons: Any, _p: Any) -> None:
            self._subacks[mid] = [reason.value for reason in reasons]

        def on_publish(_c: Any, _u: Any, mid: int, reason: Any, _p: Any) -> None:
            self.acks[mid] = reason.value

        self._mqtt.on_connect = on_connect
        self._mqtt.on_message = on_message
        self._mqtt.on_subscribe = on_subscribe
        self._mqtt.on_publish = on_publish
        # with this set, paho leaves writing to the thread that loops; else two threads would write into one TLS stream
        self._mqtt.on_socket_register_write = lambda *_: None

    # --- life ---

    def connect(self) -> LinkClient:
        """Connect and wait for the CONNACK. Raises ClientRefusedError."""
        kwargs: dict[str, Any] = {}
        if self._is_v5:
            properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            if not self._options.clean:
                properties.SessionExpiryInterval = SESSION_S
            kwargs = {"clean_start": self._options.clean, "properties": properties}
        try:
            self._mqtt.connect(self._endpoint.host, self._endpoint.port, self._options.keepalive_s, **kwargs)
        except (OSError, ssl.SSLError) as error:
            raise ClientRefusedError(repr(error)) from error
        self._loop_on.set()
        self._thread.start()
        self._wait(lambda: self.connack is not None or self.is_closed.is_set(), "CONNACK or end of the link")
        if self.connack != 0:
            self.cut()
            raise ClientRefusedError(f"CONNACK {self.connack}")
        return self

    def freeze(self) -> None:
        """Stop reading and writing, but keep the socket open."""
        self._loop_on.clear()
        time.sleep(0.06)  # one turn of the loop

    def thaw(self) -> None:
        """Go on."""
        self._loop_on.set()

    def cut(self) -> None:
        """End the TCP connection with a reset, as a crash does."""
        self._end_loop()
        sock: Any = self._mqtt.socket()
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()

    def disconnect(self) -> None:
        """Say DISCONNECT."""
        self._mqtt.disconnect()
        self.is_closed.wait(self._patience_s)
        self._end_loop()

    def _end_loop(self) -> None:
        self._stop.set()
        self._loop_on.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(self._patience_s)

    def _loop(self) -> None:
        try:
            while not self._stop.is_set():
                self._loop_on.wait()
                if self._mqtt.loop(0.05) != mqtt.MQTT_ERR_SUCCESS:
                    return
        except (OSError, ValueError):  # the socket was closed under it
            return
        finally:
            self.is_closed.set()

    def _wait(self, fact: Callable[[], Fact], what: str) -> Fact:
        return eventually(fact, what, self._patience_s)

    # --- messages ---

    def subscribe(self, *filters: tuple[str, int]) -> list[int]:
        """Subscribe and return the codes of the SUBACK; none when the broker ended the link instead."""
        result, mid = self._mqtt.subscribe([*filters] if not self._is_v5 else _v5_filters(filters))
        if result != mqtt.MQTT_ERR_SUCCESS or mid is None:
            return []
        self._wait(lambda: mid in self._subacks or self.is_closed.is_set(), "SUBACK")
        return self._subacks.get(mid, [])

    def send(self, topic: str, payload: bytes = b"x", qos: int = 1, retain: bool = False) -> int:
        """Publish without waiting; returns the message id."""
        return self._mqtt.publish(topic, payload, qos, retain).mid

    def publish(self, topic: str, payload: bytes = b"x", qos: int = 1, retain: bool = False) -> int:
        """Publish and wait for the PUBACK (QoS 1) or for the bytes to leave; returns the reason code, -1 when the link ended."""
        mid = self.send(topic, payload, qos, retain)
        self._wait(lambda: mid in self.acks or self.is_closed.is_set(), "PUBACK")
        return self.acks.get(mid, -1)

    def ack(self, message: mqtt.MQTTMessage) -> None:
        """Acknowledge a message (manual_ack)."""
        self._mqtt.ack(message.mid, message.qos)

    def payloads(self, topic: str | None = None) -> list[bytes]:
        """Return what arrived so far, of one topic or of all."""
        return [bytes(message.payload) for message in list(self.messages) if topic is None or message.topic == topic]

    def topics(self) -> list[str]:
        """Return the topics of what arrived so far."""
        return [message.topic for message in list(self.messages)]

    def wait_for(self, payload: bytes, topic: str | None = None) -> None:
        """Wait until a message with this payload has arrived."""
        self._wait(lambda: payload in self.payloads(topic), f"arrival of {payload[:40]!r}")

    def wait_count(self, count: int, topic: str | None = None) -> list[bytes]:
        """Wait until `count` messages are here and return their payloads."""
        self._wait(lambda: len(self.payloads(topic)) >= count, f"arrival of {count} messages")
        return self.payloads(topic)


def _v5_filters(filters: tuple[tuple[str, int], ...]) -> list[tuple[str, SubscribeOptions]]:
    return [(name, SubscribeOptions(qos=qos)) for name, qos in filters]
