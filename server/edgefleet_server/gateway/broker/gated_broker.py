"""The embedded broker: amqtt 0.12.1 behind our gate.

amqtt alone is unsafe (certificate bypass, leaked retained messages, lost QoS 1: ADR 0006; and keepalive is never enforced). This
subclass overrides private methods of exactly that version, so the extra `embedded` pins it; the contract suite in
`tests/broker` is what says whether another version may be used.

Order that must hold for one link: check the CONNECT, end the older link of the same device, run amqtt, end the session in
amqtt's books, forget the link. The next link of the device starts only after that.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from amqtt.broker import Broker, RetainedApplicationMessage
from amqtt.contexts import Action

from edgefleet_protocol.ids import SERVER_ACCOUNT_PREFIX
from edgefleet_protocol.topics import RETAINED_UP_LEAVES, may
from edgefleet_server.gateway.broker.connect_gate import ConnectRefusedError, checked_connect, cn_of
from edgefleet_server.gateway.broker.device_links import BEHIND_PAUSE_S, Link, LinkReader, LinkWriter, Sender
from edgefleet_server.gateway.broker.model import MAX_QUEUED_BYTES, MAX_QUEUED_MESSAGES, SESSION_EXPIRY_S
from edgefleet_server.gateway.broker.session_queues import MAX_BACKLOG_MESSAGES, CountedQueue, NoQos2

logger = logging.getLogger(__name__)

LISTENER = "default"
CONNECT_LIMIT_S = 10.0  # from accepting the socket to TLS, and from TLS to the CONNECT packet
MAX_FILTERS_PER_DEVICE = 64
SERVER_MESSAGES_UNDER_WAY = 256
SERVER_BYTES_UNDER_WAY = 4 * 1024 * 1024
_REFUSED = 0x80  # SUBACK return code


class Subscriptions(dict[str, list[tuple[Any, int]]]):
    """amqtt's filter table. Iterating sees a snapshot, so that others may (un)subscribe while a message is handed out."""

    def items(self) -> Any:
        """Return pairs of filter and a copy of its subscribers."""
        return [(key, list(value)) for key, value in super().items()]

    def __iter__(self) -> Iterator[str]:
        return iter(list(self.keys()))


class GatedBroker(Broker):  # type: ignore[misc]
    """amqtt with the gate, bounded queues, kept QoS 1 messages, keepalive and take-over. Mutual TLS on each listener."""

    def __init__(  # noqa: PLR0913 - what comes on stdin, by name
        self,
        tenant: str,
        *,
        ca_file: str,
        cert_file: str,
        key_file: str,
        host: str,
        port: int,
        refused: Mapping[str, Sequence[str]],
        also_ports: Sequence[int] = (),
    ) -> None:
        rules = {"type": "tcp", "max_connections": 0, "ssl": True}
        rules |= {"cafile": ca_file, "certfile": cert_file, "keyfile": key_file}
        ports = {LISTENER: port} | {f"also-{one}": one for one in also_ports}
        super().__init__(
            {
                "listeners": {name: {"bind": f"{host}:{one}"} | rules for name, one in ports.items()},
                "timeout_disconnect_delay": 0,
                "session_expiry_interval": SESSION_EXPIRY_S,
                "plugins": {},  # none may authenticate or filter: the gate and `may` do
            }
        )
        self._tenant = tenant
        self._links: dict[str, Link] = {}
        self._server_links: set[Link] = set()
        self._subscriptions = Subscriptions()
        self._broadcast_queue = CountedQueue()
        self._refused_serials = frozenset(refused["serials"])
        self._refused_devices = frozenset(refused["devices"])
        self._removals: set[asyncio.Task[None]] = set()

    @property
    def port(self) -> int:
        """Return the port that is listened on."""
        port: int = self._servers[LISTENER].instance.sockets[0].getsockname()[1]
        return port

    # --- TLS ---------------------------------------------------------------------------------------------------------------

    @staticmethod
    def _create_ssl_context(listener: Any) -> ssl.SSLContext:
        context: ssl.SSLContext = Broker._create_ssl_context(listener)
        context.verify_mode = ssl.CERT_REQUIRED  # amqtt hard-codes CERT_OPTIONAL
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        return context

    async def _create_server_instance(
        self, listener_name: str, listener_type: Any, address: str | None, port: int, ssl_context: ssl.SSLContext | None
    ) -> asyncio.Server:
        # as amqtt's own, with a bound on a peer that opens a socket and says nothing (asyncio's default is 60 s)
        return await asyncio.start_server(
            partial(self.stream_connected, listener_name=listener_name),
            address,
            port,
            reuse_address=True,
            ssl=ssl_context,
            ssl_handshake_timeout=CONNECT_LIMIT_S,
            ssl_shutdown_timeout=2.0,
        )

    # --- one link ----------------------------------------------------------------------------------------------------------

    async def stream_connected(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, listener_name: str
    ) -> None:
        """Run one link from its first byte to its end."""
        try:
            connect = await asyncio.wait_for(
                checked_connect(reader, writer, self._tenant, self._is_refused), CONNECT_LIMIT_S
            )
        except ConnectRefusedError as refusal:
            # the name is from a certificate that our CA signed, so nobody can write just anything into the log
            name = cn_of(writer.get_extra_info("ssl_object"))
            level = logging.DEBUG if refusal.is_usual else logging.WARNING
            logger.log(level, "client with certificate %s was refused: %s", name, refusal.message)
            writer.close()
            return
        except (TimeoutError, asyncio.IncompleteReadError, OSError):
            writer.transport.abort()
            return
        await self._end_older_link(connect.client_id)
        if writer.transport.is_closing():
            return
        if connect.client_id in self._refused_devices:  # since the CONNECT was read
            writer.close()
            return
        link = self._links[connect.client_id] = Link(
            writer.transport, connect.keepalive_s, will_retain=connect.will_retain
        )
        if connect.client_id.startswith(SERVER_ACCOUNT_PREFIX):
            self._server_links.add(link)
        try:
            await self.external_connected(
                LinkReader(reader, link, connect.packet()), LinkWriter(writer, link), listener_name
            )
        except Exception:  # outermost frame of this link's task: no device may end more than its own link
            logger.warning("a link ended by an error nobody expected", exc_info=True)
        finally:
            await self._end_session(connect.client_id)
            await link.end()
            self._server_links.discard(link)
            del self._links[connect.client_id]
            writer.close()

    async def _end_older_link(self, client_id: str) -> None:
        # amqtt's own take-over leaves the new link deaf; so the older link ends first, will included
        while (older := self._links.get(client_id)) is not None:
            older.cut()
            await older.done.wait()

    async def _end_session(self, client_id: str) -> None:
        session, handler = self._sessions.get(client_id, (None, None))
        if session is None:
            return
        if session.transitions.state == "connected":
            # amqtt leaves its loop without ending the session when a client publishes to a topic it may not name ("$x")
            without_disconnect: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            without_disconnect.set_result(None)
            await self._handle_disconnect(session, handler, without_disconnect)
        if session.clean_session or client_id in self._refused_devices:
            # amqtt keeps it for up to a second, and a persistent connect in that time would inherit it
            await self._delete_session(client_id)

    # --- revoked devices ---------------------------------------------------------------------------------------------------

    def refuse(self, refused: Mapping[str, Sequence[str]]) -> None:
        """Refuse these serials and devices from now on; sessions of the devices end, with their wills and all that waits for them."""
        self._refused_serials, self._refused_devices = frozenset(refused["serials"]), frozenset(refused["devices"])
        for device in self._refused_devices & (self._links.keys() | self._sessions.keys()):
            if device in self._links:
                self._links[device].cut()
            else:
                task = asyncio.create_task(self._delete_session(device))
                self._removals.add(task)
                task.add_done_callback(self._removals.discard)

    def _is_refused(self, name: str, serial: str) -> bool:
        return name in self._refused_devices or serial in self._refused_serials

    def _is_of_refused(self, session: Any) -> bool:
        return session is not None and session.client_id in self._refused_devices

    # --- who may what ------------------------------------------------------------------------------------------------------

    async def _authenticate(self, session: Any, _: Any) -> bool:
        # The gate has let it in; nothing else reaches this point. It is also the first moment with the session in hand.
        link = self._links[session.client_id]
        for name in ("retained_messages", "delivered_message_queue"):
            if not isinstance(getattr(session, name), CountedQueue):
                setattr(session, name, CountedQueue())
        session.inflight_in = NoQos2(link.cut)
        session.will_retain = link.will_retain  # amqtt keeps that of the first connect
        link.is_behind = partial(self._is_behind, session.delivered_message_queue)
        return True

    def _is_behind(self, received: CountedQueue) -> bool:
        """Say whether a client sends faster than its messages are handed on; then it is read from later."""
        queues = (received, self._broadcast_queue)
        return any(queue.payload_bytes > MAX_QUEUED_BYTES or queue.qsize() > MAX_BACKLOG_MESSAGES for queue in queues)

    async def _topic_filtering(self, session: Any, topic: str, action: Action) -> bool:
        return may(self._tenant, session.client_id, topic, action == Action.PUBLISH)

    async def add_subscription(self, subscription: tuple[str, int], session: Any) -> int:
        """Subscribe, unless the device holds 64 filters already; returns the SUBACK code."""
        topic_filter, qos = subscription
        if self._filter_count(session) >= MAX_FILTERS_PER_DEVICE:
            return _REFUSED
        code: int = await super().add_subscription((topic_filter, min(qos, 1)), session)
        return code

    async def retain_message(self, source_session: Any, topic_name: str, data: bytes, qos: int | None = None) -> None:
        """Retain what a device publishes to a leaf that is retained; `may` keeps it to its own leaves."""
        if self._is_of_refused(source_session):
            return
        is_of_device = source_session is not None and not _is_server(source_session)
        if is_of_device and topic_name.rpartition("/")[2] not in RETAINED_UP_LEAVES:
            return
        await super().retain_message(source_session, topic_name, data, qos)

    async def _broadcast_message(self, session: Any, topic: str, data: bytes, force_qos: int | None = None) -> None:
        if self._is_of_refused(session):
            return
        # Devices wait while a server is behind: what amqtt has sent must be acknowledged within 5 s, so little may be under way
        while session is not None and not _is_server(session) and self._is_server_behind():
            await asyncio.sleep(BEHIND_PAUSE_S)
        await super()._broadcast_message(session, topic, data, force_qos)

    def _is_server_behind(self) -> bool:
        if self._broadcast_queue.qsize() > SERVER_MESSAGES_UNDER_WAY:
            return True
        return any(
            link.pending_bytes > SERVER_BYTES_UNDER_WAY or len(link.senders) > SERVER_MESSAGES_UNDER_WAY
            for link in self._server_links
        )

    def _filter_count(self, session: Any) -> int:
        if _is_server(session):
            return 0
        return sum(
            1 for _, subscribers in self._subscriptions.items() for holder, _ in subscribers if holder is session
        )

    # --- what is sent, kept and retained -----------------------------------------------------------------------------------

    def _get_handler(self, session: Any) -> Any:
        handler = super()._get_handler(session)
        link = self._links.get(session.client_id)
        if handler is None or link is None:
            return None
        return Sender(link, handler, _Kept(self._links, session))

    async def _retain_broadcast_message(self, broadcast: dict[str, Any], qos: int, target_session: Any) -> None:
        _Kept(self._links, target_session).keep(broadcast["topic"], broadcast["data"], qos)

    async def _publish_session_retained_messages(self, session: Any) -> None:
        link = self._links.get(session.client_id)
        if link is not None:
            link.is_open = True
        await super()._publish_session_retained_messages(session)

    async def _publish_retained_messages_for_subscription(self, subscription: tuple[str, int], session: Any) -> None:
        # amqtt calls this on connect with the filters of everybody
        if any(holder is session for holder, _ in self._subscriptions.get(subscription[0], ())):
            await super()._publish_retained_messages_for_subscription(subscription, session)


@dataclass(frozen=True, slots=True)
class _Kept:
    """What waits for one session until its device connects again: bounded, oldest first."""

    links: dict[str, Link]
    session: Any

    def keep(self, topic: str, data: bytes, qos: int) -> None:
        """Keep a message, unless the session is clean or its queue is full."""
        queue = self.session.retained_messages
        is_full = queue.qsize() >= MAX_QUEUED_MESSAGES or queue.payload_bytes + len(data) > MAX_QUEUED_BYTES
        if self.session.clean_session or is_full:
            return
        queue.put_nowait(RetainedApplicationMessage(None, topic, data, qos))

    def recall(self) -> None:
        """Cut the device's present link, which may be a newer one than the link that failed."""
        present = self.links.get(self.session.client_id)
        if present is not None and present.is_open:  # else it is still to be given what is kept
            present.cut()


def _is_server(session: Any) -> bool:
    return str(session.client_id).startswith(SERVER_ACCOUNT_PREFIX)
