"""A paho client under full control of the test: it loops only when told, so it can freeze, and its socket can be cut."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from edgefleet_server.gateway.broker.model import BrokerEndpoint
from tests.broker.pki import Identity

PATIENCE_S = 20.0


class RefusedError(Exception):
    """The broker did not let the client in."""


def eventually(fact: Callable[[], Any], what: str, patience_s: float = PATIENCE_S) -> Any:
    """Wait until `fact()` is true and return it; fail with `what` after a generous time."""
    end = time.monotonic() + patience_s
    while time.monotonic() < end:
        if got := fact():
            return got
        time.sleep(0.005)
    raise AssertionError(f"did not happen within {patience_s:.0f} s: {what}")


class Client:
    """One MQTT connection in the protocol version of the endpoint."""

    def __init__(
        self,
        endpoint: BrokerEndpoint,
        identity: Identity | None,
        *,
        client_id: str | None = None,
        ca_file: Path | None = None,
        clean: bool = True,
        keepalive_s: int = 60,
        will: tuple[str, bytes, int, bool] | None = None,
        manual_ack: bool = False,
    ) -> None:
        self._endpoint = endpoint
        self._is_v5 = endpoint.mqtt == "5"
        name = client_id if client_id is not None else identity.name if identity else ""
        self._clean, self._keepalive_s = clean, keepalive_s
        kwargs: dict[str, Any] = {} if self._is_v5 else {"clean_session": clean}
        self._mqtt = mqtt.Client(
            CallbackAPIVersion.VERSION2,
            client_id=name,
            protocol=mqtt.MQTTv5 if self._is_v5 else mqtt.MQTTv311,
            manual_ack=manual_ack,
            **kwargs,
        )
        context = ssl.create_default_context(cafile=str(ca_file or endpoint.ca_file))
        if identity is not None:
            context.load_cert_chain(identity.cert_file, identity.key_file)
        self._mqtt.tls_set_context(context)
        if will is not None:
            self._mqtt.will_set(*will)
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

    def connect(self) -> Client:
        """Connect and wait for the CONNACK. Raises RefusedError."""
        properties = None
        kwargs: dict[str, Any] = {}
        if self._is_v5:
            properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            if not self._clean:
                properties.SessionExpiryInterval = 3600
            kwargs = {"clean_start": self._clean, "properties": properties}
        try:
            self._mqtt.connect(self._endpoint.host, self._endpoint.port, self._keepalive_s, **kwargs)
        except (OSError, ssl.SSLError) as error:
            raise RefusedError(repr(error)) from error
        self._loop_on.set()
        self._thread.start()
        eventually(lambda: self.connack is not None or self.is_closed.is_set(), "CONNACK or end of the link")
        if self.connack != 0:
            self.cut()
            raise RefusedError(f"CONNACK {self.connack}")
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
        self.is_closed.wait(PATIENCE_S)
        self._end_loop()

    def _end_loop(self) -> None:
        self._stop.set()
        self._loop_on.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(PATIENCE_S)

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

    # --- messages ---

    def subscribe(self, *filters: tuple[str, int]) -> list[int]:
        """Subscribe and return the codes of the SUBACK."""
        result, mid = self._mqtt.subscribe([*filters] if not self._is_v5 else _v5_filters(filters))
        assert result == mqtt.MQTT_ERR_SUCCESS
        assert mid is not None
        codes: list[int] = eventually(lambda: self._subacks.get(mid), "SUBACK")
        return codes

    def send(self, topic: str, payload: bytes = b"x", qos: int = 1, retain: bool = False) -> int:
        """Publish without waiting; returns the message id."""
        return self._mqtt.publish(topic, payload, qos, retain).mid

    def publish(self, topic: str, payload: bytes = b"x", qos: int = 1, retain: bool = False) -> int:
        """Publish and wait for the PUBACK (QoS 1) or for the bytes to leave; returns the reason code."""
        mid = self.send(topic, payload, qos, retain)
        eventually(lambda: mid in self.acks or self.is_closed.is_set(), "PUBACK")
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
        eventually(lambda: payload in self.payloads(topic), f"arrival of {payload[:40]!r}")

    def wait_count(self, count: int, topic: str | None = None) -> list[bytes]:
        """Wait until `count` messages are here and return their payloads."""
        eventually(lambda: len(self.payloads(topic)) >= count, f"arrival of {count} messages")
        return self.payloads(topic)


def _v5_filters(filters: tuple[tuple[str, int], ...]) -> list[tuple[str, SubscribeOptions]]:
    return [(name, SubscribeOptions(qos=qos)) for name, qos in filters]
