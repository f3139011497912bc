"""paho-mqtt behind our own door, with its traps answered.

1. Callbacks only enqueue and wake the main loop; nothing else runs on paho's threads.
2. A new client object per connection: paho never resends a backlog of its own (its reconnect ignores max_inflight), and a hung
   loop thread is left behind by `recycle` instead of waited for.
3. At most MAX_UNACKED QoS 1 publishes are in paho's hands; `publish` says no beyond that and the outbox keeps the rest.
4. Incoming QoS 1 messages are acknowledged by `ack` when the main loop has taken them in (manual_ack); documents are retained and
   come again with each connection.
5. On every connect the main loop subscribes, then publishes retained state and presence.
6. Which identity is used is asked again before each connection, so that a renewed one is taken up (`renewal_timer`). A place that cannot
   be reached says nothing about an identity: the next attempt is at another place, or with the first identity again.
7. What was sent and is not acknowledged by the other end's kernel for UNHEARD_S ends the connection (TCP_USER_TIMEOUT): a way that has
   forgotten us is noticed with the next message, not after two keepalives. How long a connection may be silent is in `keepalive`.
8. Reconnect after 0 … min(max, 2^n) s, uniformly (full jitter), so that a fleet does not return in one moment.
"""

import contextlib
import errno
import logging
import queue
import secrets
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edgefleet_agent.connection.keepalive import URGENT_S, Keepalive, is_urgent
from edgefleet_agent.identity.place_follower import Way, place_of
from edgefleet_agent.identity.store import CA_FILE, CERT_FILE, KEY_FILE, Identity
from edgefleet_agent.identity.tpm_secret import passphrase
from edgefleet_protocol.errors import EdgefleetError
from edgefleet_protocol.ids import DeviceId, TenantId
from edgefleet_protocol.messages import Presence, encode
from edgefleet_protocol.topics import Topics

MAX_UNACKED = 16
MAX_INBOX = 256
SESSION_EXPIRY_S = 7 * 86_400
WILL_DELAY_S = 15
UNHEARD_S = 120
CALM_LOOK_S = 60.0
NO_ROUTE = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EADDRNOTAVAIL)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Connected:
    """The broker accepted us, with the identity of `folder`, and the subscriptions are on their way. number: of the `Way`."""

    conn_id: str
    folder: Path
    number: int = 0


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The connection is gone."""

    reason: str


@dataclass(frozen=True, slots=True)
class Published:
    """A QoS 1 publish of ours was acknowledged by the broker (which proves nothing but that it may leave paho)."""

    mid: int


@dataclass(frozen=True, slots=True)
class Answered:
    """The broker answered a SUBSCRIBE or UNSUBSCRIBE."""

    mid: int
    is_granted: bool


@dataclass(frozen=True, slots=True)
class Received:
    """A message for us. `client` is opaque: an ack must go to the connection the message came on."""

    topic: str
    payload: bytes
    qos: int
    mid: int
    client: Any
    is_retained: bool = False


Inbound = Connected | Disconnected | Published | Received | Answered


@dataclass(frozen=True, slots=True)
class LinkOptions:
    """Times of the connection, in seconds."""

    keepalive_s: int
    connect_timeout_s: float
    reconnect_max_s: float


class Silence:
    """How long one connection was silent, and how long it was so before something came again. now_s: monotonic seconds."""

    def __init__(self, now_s: float) -> None:
        self._began_s = self._heard_s = now_s
        self._survived_s = 0.0

    def broken(self, now_s: float) -> None:
        """Note that something came."""
        self._survived_s = max(self._survived_s, now_s - self._heard_s)
        self._heard_s = now_s

    def limits(self, now_s: float) -> dict[str, float]:
        """Return what `Keepalive.ended` asks for."""
        return {
            "lasted_s": now_s - self._began_s,
            "quiet_s": now_s - self._heard_s,
            "survived_s": self._survived_s,
        }


def _is_unreached(error: Exception) -> bool:
    """Whether nobody answered, so that nobody has judged the identity."""
    is_silent = isinstance(error, ConnectionRefusedError | TimeoutError | socket.gaierror)
    return is_silent or (isinstance(error, OSError) and error.errno in NO_ROUTE)


def _prepare_socket(_client: paho.Client, _data: Any, sock: Any) -> None:
    """Let the kernel give up what is not acknowledged for UNHEARD_S, and send a message that follows an acknowledgement at once.

    An acknowledgement is a packet of its own. Where the message behind it waits until the broker's kernel has confirmed that packet, it
    leaves 40 ms later.
    """
    with contextlib.suppress(OSError, AttributeError):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNHEARD_S * 1_000)


class MqttLink:
    """The connection. Thread-safe; `wake` is called from paho's thread after something was put into `inbox`."""

    def __init__(
        self,
        identity: Identity,
        candidates: Callable[[], list[Way]],
        boot_id: str,
        options: LinkOptions,
        wake: Callable[[], None],
        unix_ms: Callable[[], int],
    ) -> None:
        self._identity = identity
        self._candidates = candidates
        self._way = Way(identity, Path())
        self._ways: list[Way] = []
        self._next = 0
        self._boot_id = boot_id
        self._options = options
        self._wake = wake
        self._unix_ms = unix_ms
        self._topics = Topics(TenantId(identity.tenant))
        self._device = DeviceId(identity.device)
        self._lock = threading.Lock()
        self._unacked: set[int] = set()
        self._acked_early: set[int] = set()
        self._client: paho.Client | None = None
        self._stopping = threading.Event()
        self._gone = threading.Event()
        self._connected = False
        self._failures = 0
        self._keepalive = Keepalive(options.keepalive_s, options.keepalive_s)
        self._live_until_s = 0.0
        self._is_urgent = False
        self._silence = Silence(0.0)
        self._thread = threading.Thread(target=self._run, name="link", daemon=True)
        self.inbox: queue.Queue[Inbound] = queue.Queue()

    @property
    def is_connected(self) -> bool:
        """Whether the broker has accepted the newest connection and it has not ended."""
        return self._connected

    @property
    def room(self) -> int:
        """How many more QoS 1 publishes may be handed over now."""
        return MAX_UNACKED - len(self._unacked) if self._connected else 0

    def start(self) -> None:
        """Begin to connect; returns at once."""
        self._thread.start()

    def stop(self, farewell: bytes) -> None:
        """Publish `farewell` as presence, disconnect cleanly, end the threads. Waits at most three seconds."""
        self._stopping.set()
        client = self._client
        if client is not None and self._connected:
            info = client.publish(self._topics.presence(self._device), farewell, qos=1, retain=True)
            try:
                info.wait_for_publish(timeout=1.0)
            except (ValueError, RuntimeError):
                log.debug("farewell not sent")
            client.disconnect()
        self._gone.set()
        self._thread.join(timeout=2.0)

    def publish(self, topic: str, payload: bytes, qos: int, *, retain: bool = False) -> int | None:
        """Hand over one message; its mid, or None when there is no connection or no room. Never blocks on the network."""
        client = self._client
        if client is None or not self._connected or (qos and len(self._unacked) >= MAX_UNACKED):
            return None
        with self._lock:
            self._acked_early.clear()  # paho also tells of QoS 0 messages, which nobody waits for
        # never under our lock: paho calls on_publish while it holds the very mutex that publish needs
        info = client.publish(topic, payload, qos=qos, retain=retain)
        if info.rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
            return None
        if qos:
            with self._lock:
                if info.mid in self._acked_early:
                    self._acked_early.discard(info.mid)
                else:
                    self._unacked.add(info.mid)
        return info.mid

    def ack(self, message: Received) -> None:
        """Acknowledge a QoS 1 message; nothing happens when its connection is gone, the broker then sends it again."""
        client = self._client
        if message.qos and client is not None and message.client is client and self._connected:
            client.ack(message.mid, message.qos)

    def subscribe(self, filters: Sequence[tuple[str, int]]) -> int:
        """Return the mid of the `Answered` that comes, or 0."""
        client = self._client
        return (client.subscribe(list(filters))[1] or 0) if client is not None and self._connected else 0

    def unsubscribe(self, topics: list[str]) -> int:
        """Return as `subscribe`."""
        client = self._client
        return (client.unsubscribe(topics)[1] or 0) if client is not None and self._connected else 0

    def live_until(self, unix_s: float) -> None:
        """Know until when the server wants to hear often: the broker shall then notice soon when the device is gone."""
        self._live_until_s = unix_s
        if self._connected and self._wants_urgent() and not self._is_urgent and self._keepalive.calm_s > URGENT_S:
            log.info("reconnecting, to be missed sooner")
            self._gone.set()

    def _wants_urgent(self) -> bool:
        return is_urgent(self._live_until_s, self._unix_ms() / 1_000, is_now=self._is_urgent)

    def recycle(self, reason: str) -> None:
        """Leave this connection behind and make a new one: the watchdog's remedy for a client that hangs."""
        log.warning("link recycled", extra={"reason": reason})
        client = self._client
        self._gone.set()
        if client is not None:
            sock = client.socket()
            if sock is not None:
                try:
                    sock.shutdown(socket.SHUT_RDWR)  # type: ignore[attr-defined]  # a real socket with TLS
                except OSError:
                    log.debug("socket was closed already")

    # ---- the supervising thread

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._gone.clear()
            conn_id = secrets.token_hex(6)
            try:
                self._choose()
                client = self._make_client(conn_id)
                self._client = client
                self._is_urgent = self._wants_urgent()
                client.connect(
                    self._identity.broker_host,
                    self._identity.broker_port,
                    self._keepalive.asks_s(is_urgent=self._is_urgent),
                    **self._connect_options(),
                )
            except (OSError, ValueError, EdgefleetError) as error:
                if _is_unreached(error):
                    self._leave_place()
                self._put(Disconnected(f"{type(error).__name__}: {error}"))
            else:
                client.loop_start()
                while not self._gone.wait(CALM_LOOK_S):
                    if self._connected and self._is_urgent and not self._wants_urgent():
                        break  # a ping each minute is for as long as somebody asks for it
                self._connected = False
                client.disconnect()
                client.loop_stop()
            self._client = None
            self._failures = min(self._failures + 1, 16)
            self._stopping.wait(self._delay_s())

    def _choose(self) -> None:
        """Take the next candidate: the first one first, and again after each connection that it made."""
        self._ways = self._candidates()
        at = self._next % len(self._ways)
        self._way = self._ways[at]
        self._identity = self._way.identity
        self._next = at + 1

    def _leave_place(self) -> None:
        """Skip the other identities for a place that cannot be reached; after the last place comes the first candidate again."""
        here = place_of(self._identity)
        others = (n for n in range(self._next, len(self._ways)) if place_of(self._ways[n].identity) != here)
        self._next = next(others, 0)

    def _delay_s(self) -> float:
        ceiling = min(self._options.reconnect_max_s, 0.5 * 2.0**self._failures)
        return ceiling * secrets.randbelow(1_000) / 1_000

    def _connect_options(self) -> dict[str, Any]:
        if self._identity.mqtt != "5":
            return {}
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.SessionExpiryInterval = SESSION_EXPIRY_S
        return {"clean_start": False, "properties": properties}

    def _make_client(self, conn_id: str) -> paho.Client:
        is_v5 = self._identity.mqtt == "5"
        client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=self._identity.device,
            clean_session=None if is_v5 else False,
            protocol=paho.MQTTv5 if is_v5 else paho.MQTTv311,
            reconnect_on_failure=False,
            manual_ack=True,
        )
        client.connect_timeout = self._options.connect_timeout_s
        client.on_socket_open = _prepare_socket
        client.max_inflight_messages_set(MAX_UNACKED + 4)
        client.tls_set_context(self._tls())
        off = Presence(on=False, conn_id=conn_id, boot_id=self._boot_id, ts=self._unix_ms())
        will: dict[str, Any] = {}
        if is_v5:
            will["properties"] = Properties(PacketTypes.WILLMESSAGE)  # type: ignore[no-untyped-call]
            will["properties"].WillDelayInterval = WILL_DELAY_S
        client.will_set(self._topics.presence(self._device), encode(off), qos=1, retain=True, **will)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        client.on_publish = self._on_publish
        client.on_subscribe = client.on_unsubscribe = self._on_answer
        client.on_log = self._on_log
        client.user_data_set(conn_id)
        return client

    def _tls(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        folder = self._way.folder
        context.load_verify_locations(cadata=self._way.cas or (folder / CA_FILE).read_text("ascii"))
        context.load_cert_chain(str(folder / CERT_FILE), str(folder / KEY_FILE), lambda: passphrase(folder))
        return context

    # ---- paho's thread: only enqueue

    def _on_connect(self, _client: paho.Client, conn_id: str, _flags: Any, reason: Any, _properties: Any) -> None:
        if reason.is_failure:
            self._put(Disconnected(f"refused: {reason}"))
            self._gone.set()
            return
        with self._lock:
            self._unacked.clear()
            self._acked_early.clear()
        self._failures = 0
        self._next = 0
        self._silence = Silence(time.monotonic())
        self._connected = True
        self._put(Connected(conn_id, self._way.folder, self._way.number))

    def _on_disconnect(self, client: paho.Client, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if client is self._client:
            if self._connected:
                now_s, known = time.monotonic(), self._keepalive
                self._keepalive = known.ended(**self._silence.limits(now_s))
                if self._keepalive.calm_s != known.calm_s:
                    log.info("keepalive", extra={"seconds": self._keepalive.calm_s})
            self._connected = False
            self._put(Disconnected(str(reason)))
            self._gone.set()

    def _on_message(self, client: paho.Client, _data: Any, message: paho.MQTTMessage) -> None:
        # blocks are QoS 0 and asked for by credit; a flood beyond that is somebody else's and may be lost
        if message.qos == 0 and self.inbox.qsize() > MAX_INBOX:
            return
        fields = message.qos, message.mid, client, message.retain
        self._put(Received(message.topic, bytes(message.payload), *fields))

    def _on_answer(self, client: paho.Client, _data: Any, mid: int, reasons: list[Any], _properties: Any) -> None:
        if client is self._client:
            self._put(Answered(mid, not any(one.is_failure for one in reasons)))

    def _on_publish(self, _client: paho.Client, _data: Any, mid: int, _reason: Any, _properties: Any) -> None:
        with self._lock:
            if mid in self._unacked:
                self._unacked.discard(mid)
            else:
                self._acked_early.add(mid)
        self._put(Published(mid))

    def _on_log(self, _client: paho.Client, _data: Any, _level: int, line: str) -> None:
        # the answer to a ping breaks a silence, too, and paho tells of it nowhere else
        if line == "Received PINGRESP":
            self._silence.broken(time.monotonic())

    def _put(self, item: Inbound) -> None:
        if isinstance(item, Received | Published):
            self._silence.broken(time.monotonic())
        self.inbox.put(item)
        self._wake()
