"""The gateway's MQTT client: paho behind one wrapper.

What paho 2.2 does not do by itself, and how it is answered here:
1. After a reconnect paho sends everything it holds at once: a client object lives for one connection and is thrown away;
   what must reach devices is published again from the database on every connect.
2. Its queues are unbounded: a publish waits until fewer than MAX_UNACKED messages and MAX_PENDING_BYTES are on their way.
3. Callbacks run on paho's thread and must not publish: they only put into queues.
4. A TLS error can leave a dead loop behind a client that says it is connected: a watchdog publishes a heartbeat to nobody
   at QoS 1 every HEARTBEAT_S and gives the connection up when one is not taken, or when nothing at all came before the next. A broker
   that is busy with the handshakes of a whole fleet acknowledges late, and a gateway that connected again would add its own (ADR 0157).
5. It acknowledges a message as soon as a callback has seen it. With MQTT 5 messages are acknowledged once they are stored (`ack`), and the
   broker keeps what is beyond RECEIVE_MAXIMUM until then: that is what holds a storm of devices back (ADR 0104).
"""

import itertools
import logging
import random
import socket
import ssl
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edgefleet_protocol.clock import Clock
from edgefleet_server.gateway.broker.model import BrokerEndpoint
from edgefleet_server.gateway.quick_client import QuickClient, client_type

RECEIVE_MAXIMUM: Final = 32_000
"""So many messages the broker hands over before one of them is acknowledged. They wait in the fair queue: of up to 1.5 KB each it has
room for all (`uplink_queue_bytes`), of larger ones it drops what is beyond."""
NO_RECEIPT: Final = 0
MAX_UNACKED: Final = 100
ROOM_AGAIN: Final = MAX_UNACKED // 2
MAX_PENDING_BYTES: Final = 4 * 1024 * 1024
KEEPALIVE_S: Final = 30
HEARTBEAT_S: Final = 20.0
CONNECT_LIMIT_S: Final = 30.0
"""A broker to which a whole fleet comes back shakes hands with everybody in turn (ADR 0157)."""
STOP_LIMIT_S: Final = 10.0
MAX_BACKOFF_S: Final = 5.0
SWEEP_QUIET_S: Final = 0.3

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LinkIdentity:
    """Client id (= certificate CN) and the files of the client certificate."""

    name: str
    cert_file: Path
    key_file: Path


@dataclass(frozen=True)
class LinkHandlers:
    """Called on paho's thread; must return at once and never publish."""

    on_message: Callable[[str, bytes, int], None]
    """topic, payload, receipt: to be given to `MqttLink.ack` once the message is stored or refused."""
    on_up: Callable[[], None]
    on_down: Callable[[], None]
    on_lost: Callable[[], bool] = lambda: True
    """Called on the link's own thread after a connection that stood, before the next: may block. True: it may connect again."""


class _Connection:
    """One paho client, from connect to its end."""

    def __init__(self, client: paho.Client, number: int) -> None:
        self.client = client
        self.number = number
        self.is_up = threading.Event()
        self.is_over = threading.Event()
        self.pending: dict[int, int] = {}
        self.early: set[int] = set()
        self.pending_bytes = 0
        self.has_refused = False
        self.arrivals = 0
        """How many messages and acknowledgements came; a count that stands still says that the connection may be dead."""


def _send_at_once(_client: paho.Client, _data: Any, sock: Any) -> None:
    """Let a document or a block that follows an acknowledgement not wait until that one was confirmed: it would leave 40 ms later."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


class MqttLink:
    """Keeps one connection to the broker and publishes with back-pressure. Thread-safe."""

    def __init__(
        self,
        endpoint: BrokerEndpoint,
        identity: LinkIdentity,
        filters: Sequence[tuple[str, int]],
        heartbeat_topic: str,
        handlers: LinkHandlers,
        clock: Clock,
    ) -> None:
        """Wire the link; `start` connects. filters: (topic filter, QoS), exact and non-overlapping."""
        self._endpoint = endpoint
        self._identity = identity
        self._filters = list(filters)
        self._heartbeat_topic = heartbeat_topic
        self._handlers = handlers
        self._clock = clock
        self._changed = threading.Condition()
        self._waiting = 0
        self._numbers = itertools.count(1)
        self._connection: _Connection | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mqtt-link", daemon=True)
        self.connects = 0

    def start(self) -> None:
        """Begin to connect, and again whenever the connection is lost. Returns at once."""
        self._thread.start()

    def stop(self) -> None:
        """Disconnect and end the thread. Blocks for at most a few seconds."""
        self._stopping.set()
        if self._connection is not None:
            self._give_up(self._connection)
        if self._thread.is_alive():
            self._thread.join(timeout=STOP_LIMIT_S)

    @property
    def is_up(self) -> bool:
        """Whether the broker accepted us and the connection is not known to be lost."""
        connection = self._connection
        return connection is not None and connection.is_up.is_set() and not connection.is_over.is_set()

    @property
    def unacked(self) -> int:
        """How many messages are on their way to the broker."""
        connection = self._connection
        return 0 if connection is None else len(connection.pending)

    def publish(self, topic: str, payload: bytes, *, qos: int, retain: bool = False, limit_s: float = 30.0) -> bool:
        """Hand a message to the broker; False when there is no connection, or no room within `limit_s`.

        Blocks while too much is on its way. True is no proof of delivery. Never call it from a handler.
        """
        with self._changed:
            connection = self._room(limit_s)
        return connection is not None and self._send(connection, topic, payload, qos, retain) is not None

    def ack(self, receipts: Iterable[int]) -> None:
        """Acknowledge messages; those of a connection that is over are sent again by their devices. Thread-safe, never blocks."""
        connection = self._connection
        if connection is None:
            return
        mids = [one & 0xFFFF for one in receipts if one >> 16 == connection.number]
        client = connection.client
        try:
            if isinstance(client, QuickClient):
                client.ack_all(mids)
            else:
                for mid in mids:
                    client.ack(mid, 1)
        except (ValueError, OSError, RuntimeError) as error:  # the connection is ending: devices send again
            _log.warning("messages not acknowledged", extra={"reason": type(error).__name__})

    def retained_under(self, filters: Sequence[str]) -> list[str] | None:
        """Return topics under these filters that hold a retained message, not always all of many; None without a connection.

        Blocks until nothing more has come for SWEEP_QUIET_S. Nothing that comes under the filters meanwhile is handed on.
        """
        connection = self._connection
        if connection is None or not self.is_up:
            return None
        found: dict[str, float] = {}
        begun_s = self._clock.monotonic_s()

        def take(client: paho.Client, _data: Any, message: paho.MQTTMessage) -> None:
            client.ack(message.mid, message.qos)
            if message.retain and message.payload:
                found[message.topic] = self._clock.monotonic_s()

        try:
            for one in filters:
                connection.client.message_callback_add(one, take)
            # QoS 0: a hoard of retained messages must not fill the queue of what is not acknowledged
            connection.client.subscribe([(one, 0) for one in filters])
            while self._clock.monotonic_s() - max((begun_s, *found.copy().values())) < SWEEP_QUIET_S:
                if self._stopping.wait(SWEEP_QUIET_S / 6) or not self.is_up:
                    return None
            connection.client.unsubscribe(list(filters))
        except (ValueError, OSError, RuntimeError) as error:
            _log.warning("retained messages not asked for", extra={"reason": type(error).__name__})
            return None
        finally:
            for one in filters:
                connection.client.message_callback_remove(one)
        return list(found)

    def _send(
        self, connection: _Connection, topic: str, payload: bytes, qos: int, retain: bool
    ) -> paho.MQTTMessageInfo | None:
        """Give one message to paho and count it as under way; None when paho does not take it."""
        try:
            info = connection.client.publish(topic, payload, qos=qos, retain=retain)
        except (ValueError, OSError, RuntimeError) as error:
            _log.warning("publish failed", extra={"reason": type(error).__name__})
            return None
        if info.rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
            return None
        with self._changed:
            if info.mid in connection.early:
                connection.early.discard(info.mid)
            else:
                connection.pending[info.mid] = len(payload)
                connection.pending_bytes += len(payload)
        return info

    def _room(self, limit_s: float) -> _Connection | None:
        """Wait, holding the condition, until the connection may take one more message."""
        deadline = self._clock.monotonic_s() + limit_s
        while not self._stopping.is_set():
            connection = self._connection
            if connection is None or not self.is_up:
                return None
            if len(connection.pending) < MAX_UNACKED and connection.pending_bytes < MAX_PENDING_BYTES:
                return connection
            left = deadline - self._clock.monotonic_s()
            if left <= 0:
                return None
            self._waiting += 1
            self._changed.wait(min(left, 1.0))
            self._waiting -= 1
        return None

    def _run(self) -> None:
        attempt, is_lost = 0, False
        while not self._stopping.is_set():
            if is_lost and not self._handlers.on_lost():
                self._stopping.wait(MAX_BACKOFF_S)
                continue
            is_lost = was_up = self._one_connection()
            attempt = 0 if was_up else attempt + 1
            limit_s = min(MAX_BACKOFF_S, 0.1 * 2**attempt)
            self._stopping.wait(random.uniform(0.05, limit_s))  # noqa: S311  # jitter, not a secret

    def _one_connection(self) -> bool:
        """Connect once and stay until it is over; return whether the broker had accepted us."""
        try:
            connection = _Connection(self._new_client(), next(self._numbers))
        except (OSError, ValueError) as error:  # also ssl.SSLError: the files are being replaced, or bad
            _log.error("own certificate not usable", extra={"reason": f"{type(error).__name__}: {error}"})
            return False
        self._wire(connection)
        self._connection = connection
        if self._stopping.is_set():  # stop() may have looked just before this connection was there
            return False
        try:
            connection.client.connect(
                self._endpoint.host, self._endpoint.port, keepalive=KEEPALIVE_S, properties=self._flow_control()
            )
            connection.client.loop_start()
            with self._changed:
                self._changed.wait_for(
                    lambda: connection.is_up.is_set() or connection.is_over.is_set(), CONNECT_LIMIT_S
                )
            if connection.is_up.is_set():
                self._watch(connection)
        except (OSError, ValueError) as error:
            _log.info("broker not reached", extra={"reason": f"{type(error).__name__}: {error}"})
        finally:
            was_up = connection.is_up.is_set()
            self._end(connection)
        return was_up

    def _watch(self, connection: _Connection) -> None:
        """Return when the connection is over, or a heartbeat says that it is dead."""
        heartbeat: paho.MQTTMessageInfo | None = None
        before = connection.arrivals
        while not connection.is_over.wait(HEARTBEAT_S):
            is_heard = heartbeat is None or heartbeat.is_published() or connection.arrivals != before
            before = connection.arrivals
            heartbeat = self._send(connection, self._heartbeat_topic, b"", 1, False)
            if not is_heard or heartbeat is None:
                _log.warning("broker connection is dead")
                return

    def _give_up(self, connection: _Connection) -> None:
        """Mark a connection as over and wake what waits for it."""
        connection.is_over.set()
        with self._changed:
            self._changed.notify_all()

    def _end(self, connection: _Connection) -> None:
        self._give_up(connection)
        try:
            connection.client.disconnect()
            connection.client.loop_stop()
        except (OSError, ValueError, RuntimeError) as error:
            _log.info("disconnect failed", extra={"reason": type(error).__name__})

    def _new_client(self) -> paho.Client:
        is_v5 = self._endpoint.mqtt == "5"
        client = client_type()(
            CallbackAPIVersion.VERSION2,
            client_id=self._identity.name,
            clean_session=None if is_v5 else True,
            protocol=paho.MQTTv5 if is_v5 else paho.MQTTv311,
            reconnect_on_failure=False,
            manual_ack=is_v5,
        )
        context = ssl.create_default_context(cafile=str(self._endpoint.ca_file))
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(self._identity.cert_file, self._identity.key_file)
        client.tls_set_context(context)
        client.connect_timeout = CONNECT_LIMIT_S
        # no limit of its own, `_room` is one: paho looks at all messages under way for each that is acknowledged
        client.max_inflight_messages_set(0)
        client.on_socket_open = _send_at_once
        return client

    def _flow_control(self) -> Properties | None:
        if self._endpoint.mqtt != "5":
            return None
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.ReceiveMaximum = RECEIVE_MAXIMUM
        return properties

    def _wire(self, connection: _Connection) -> None:
        def on_connect(client: paho.Client, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
            if reason.is_failure:
                _log.warning("broker refused the connection", extra={"reason": str(reason)})
                self._give_up(connection)
                return
            client.subscribe(self._filters)

        def on_subscribe(_client: paho.Client, _data: Any, _mid: int, reasons: Any, _properties: Any) -> None:
            if any(reason.is_failure for reason in reasons):
                _log.error("broker refused a subscription", extra={"reasons": [str(r) for r in reasons]})
            if connection.is_up.is_set():  # a later one, of a sweep
                return
            self.connects += 1
            connection.is_up.set()
            with self._changed:
                self._changed.notify_all()
            _log.info("broker connected", extra={"client_id": self._identity.name})
            self._handlers.on_up()

        def on_disconnect(_client: paho.Client, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
            self._give_up(connection)
            _log.info("broker disconnected", extra={"reason": str(reason)})
            self._handlers.on_down()

        def on_publish(_client: paho.Client, _data: Any, mid: int, reason: Any, _properties: Any) -> None:
            if reason.is_failure and not connection.has_refused:  # once: a quota may refuse all of a fleet's documents
                connection.has_refused = True
                _log.error("broker refused a message", extra={"reason": str(reason)})
            connection.arrivals += 1
            with self._changed:
                size = connection.pending.pop(mid, None)
                if size is None:
                    connection.early.add(mid)
                else:
                    connection.pending_bytes -= size
                # not for each one: a waiting thread would wake for a single message
                if self._waiting and len(connection.pending) <= ROOM_AGAIN:
                    self._changed.notify_all()

        receipts = connection.number << 16 if self._endpoint.mqtt == "5" else NO_RECEIPT

        def take(topic: str, payload: bytes, mid: int) -> None:
            connection.arrivals += 1
            self._handlers.on_message(topic, payload, receipts | mid if mid and receipts else NO_RECEIPT)

        def on_message(_client: paho.Client, _data: Any, message: paho.MQTTMessage) -> None:
            take(message.topic, bytes(message.payload), message.mid if message.qos == 1 else 0)

        connection.client.on_connect = on_connect
        connection.client.on_subscribe = on_subscribe
        connection.client.on_disconnect = on_disconnect
        connection.client.on_publish = on_publish
        connection.client.on_message = on_message
        if isinstance(connection.client, QuickClient):
            connection.client.take_plain(take)
