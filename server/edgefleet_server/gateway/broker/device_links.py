"""One device link of the embedded broker: what amqtt reads from, writes to and sends through.

* `Link` knows when bytes last arrived and cuts the socket when keepalive passes or the device must come back.
* `LinkReader` hands amqtt the checked CONNECT first, and ends the link at a packet that is too large (amqtt would else
  parse the rest of it as packets: 65 s of CPU measured).
* `LinkWriter` bounds how long amqtt waits for a device that does not read.
* `Sender` bounds what waits for one device, and saves un-acknowledged QoS 1 messages that amqtt drops.

Source: ADR 0006; written against the internals of amqtt 0.12.1.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

from amqtt.adapters import StreamReaderAdapter, StreamWriterAdapter
from amqtt.errors import AMQTTError, MQTTError, NoDataError, ProtocolHandlerError

from edgefleet_server.gateway.broker.model import MAX_KEEPALIVE_S, MAX_PACKET_BYTES, MAX_QUEUED_BYTES

DRAIN_LIMIT_S = 20.0
CLOSE_LIMIT_S = 2.0
BEHIND_PAUSE_S = 0.005
_CHUNK_BYTES = 65_536
_MESSAGE_OVERHEAD_BYTES = 256  # what a queued message costs besides its payload, roughly


class Link:
    """State of one connected device, shared by reader, writer, sender and gate.

    `is_open` becomes true when amqtt hands out what was kept for the device. Until then new QoS 1 messages join that queue, so
    that they stay behind it.
    """

    def __init__(self, transport: asyncio.WriteTransport, keepalive_s: int, *, will_retain: bool) -> None:
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._last_s = self._loop.time()
        # 0 would mean no check at all; mosquitto's max_keepalive answers it the same way
        self._keepalive_s = min(keepalive_s or MAX_KEEPALIVE_S, MAX_KEEPALIVE_S)
        self.done = asyncio.Event()
        self.will_retain = will_retain
        self.is_behind: Callable[[], bool] = _never
        self.is_cut = False
        self.is_open = False
        self.pending_bytes = 0
        self.senders: set[asyncio.Task[Any]] = set()
        self._watch()

    def heard(self) -> None:
        """Note that bytes arrived."""
        self._last_s = self._loop.time()

    def cut(self) -> None:
        """End the link at once; amqtt sees end of file and fires the will."""
        self.is_cut = True
        self._transport.abort()

    @property
    def is_closing(self) -> bool:
        """Say whether the socket is closed or about to be."""
        return self._transport.is_closing()

    @property
    def is_clogged(self) -> bool:
        """Say whether more bytes wait in our buffers than should; False for a link that is closing."""
        # a closed TLS transport of Python 3.11 has no buffers to ask any more, and raises AttributeError
        if self._transport.is_closing():
            return False
        _, high = self._transport.get_write_buffer_limits()
        return self._transport.get_write_buffer_size() > high

    async def end(self) -> None:
        """Give up what is still being sent over it, and mark it as gone. The next link of the device waits for this."""
        # amqtt cancels only the acknowledgements it waits for at that moment; what it begins to send later would hang for 5 s
        if senders := [task for task in self.senders if not task.done()]:
            for task in senders:
                task.cancel()
            await asyncio.wait(senders)
        self.done.set()

    def _watch(self) -> None:
        # amqtt never enforces keepalive: its read timeout is a `pass`
        if self.done.is_set():
            return
        if self._loop.time() - self._last_s > 1.5 * self._keepalive_s:
            self.cut()
        else:
            self._loop.call_later(self._keepalive_s / 4, self._watch)


def _never() -> bool:
    return False


class LinkReader(StreamReaderAdapter):  # type: ignore[misc]
    """amqtt's view of the bytes from the device."""

    def __init__(self, reader: asyncio.StreamReader, link: Link, connect_packet: bytes) -> None:
        super().__init__(reader)
        self._stream = reader
        self._link = link
        self._first = connect_packet

    async def read(self, n: int = -1) -> bytes:
        """Return exactly n bytes, the rewritten CONNECT first. Raises asyncio.IncompleteReadError at the end."""
        if self._first:
            head, self._first = self._first[:n], self._first[n:]
            return head
        while self._link.is_behind() and not self._link.is_cut:  # TCP then slows the sender down
            await asyncio.sleep(BEHIND_PAUSE_S)
            self._link.heard()  # that nothing is heard is our doing
        if not 0 <= n <= MAX_PACKET_BYTES:
            self._link.cut()
        if self._link.is_cut:  # also for whatever amqtt asks next: what is left of the stream is no packet
            raise asyncio.IncompleteReadError(b"", n)
        got = bytearray()
        while len(got) < n:  # in chunks, so that a large packet on a slow line counts as being heard
            chunk = await self._stream.read(min(n - len(got), _CHUNK_BYTES))
            if not chunk:
                raise asyncio.IncompleteReadError(bytes(got), n)
            self._link.heard()
            got += chunk
        return bytes(got)


class LinkWriter(StreamWriterAdapter):  # type: ignore[misc]
    """amqtt's view of the bytes to the device."""

    def __init__(self, writer: asyncio.StreamWriter, link: Link) -> None:
        super().__init__(writer)
        self._link = link

    def write(self, data: bytes) -> None:
        """Put bytes into the buffer; nothing for a link that is closing."""
        if not self._link.is_closing:
            super().write(data)

    async def drain(self) -> None:
        """Wait while the device reads too slowly, at most 20 s; then the link is cut."""
        if not self._link.is_clogged:
            # without a pause: amqtt looks for an acknowledgement only after this, and it must not come earlier
            return
        try:
            await asyncio.wait_for(super().drain(), DRAIN_LIMIT_S)
        except TimeoutError:
            self._link.cut()
            raise ConnectionResetError("the device stopped reading") from None

    async def close(self) -> None:
        """Close within 2 s, whatever the device does."""
        if self.is_closed:
            return  # without a pause: amqtt's clean-up of a session must not be interleaved with its return
        try:
            await asyncio.wait_for(super().close(), CLOSE_LIMIT_S)
        except (TimeoutError, OSError):
            pass
        finally:
            self._link.cut()


class AmqttHandler(Protocol):
    """The part of amqtt's BrokerProtocolHandler that the broker sends through."""

    async def mqtt_publish(self, topic: str, data: bytes, qos: int, retain: bool) -> Any:
        """Send one message and wait for its acknowledgement."""
        ...


class Session(Protocol):
    """Where a sender puts what it cannot deliver now."""

    def keep(self, topic: str, data: bytes, qos: int) -> None:
        """Keep a message until the device connects again."""
        ...

    def recall(self) -> None:
        """Cut the device's present link, so that it comes back for what is kept; unless it is still to be given that."""
        ...


class Sender:
    """Stands where amqtt expects the handler of a session; sends through it.

    QoS 0 beyond the budget is dropped. QoS 1 that cannot be delivered, or is not acknowledged, is kept and the device called
    back. Returns nothing: amqtt pins the result of each send behind the slowest consumer, payload included.
    """

    def __init__(self, link: Link, handler: AmqttHandler, session: Session) -> None:
        self._link = link
        self._handler = handler
        self._session = session
        self._was_open = link.is_open

    async def mqtt_publish(self, topic: str, data: bytes, qos: int, retain: bool) -> None:
        """Send one message; returns when it is acknowledged, kept or dropped."""
        if qos and not self._was_open:
            if not self._link.is_open:
                self._session.keep(topic, data, qos)
                return
            await asyncio.sleep(0)  # it opened meanwhile: step behind the kept messages, which stand in line by now
        size = len(data) + len(topic) + _MESSAGE_OVERHEAD_BYTES
        if self._link.done.is_set() or self._link.pending_bytes + size > MAX_QUEUED_BYTES:
            self._undelivered(topic, data, qos)
            return
        task = asyncio.current_task()
        assert task is not None
        self._link.pending_bytes += size
        self._link.senders.add(task)
        try:
            await self._handler.mqtt_publish(topic, data, qos, retain=retain)
        except (
            TimeoutError,
            asyncio.CancelledError,
            AMQTTError,
            MQTTError,
            NoDataError,
            ProtocolHandlerError,
            OSError,
        ):
            # cancelled by amqtt (which gave up the acknowledgement) or by the end of the link; both end here
            task.uncancel()
            self._undelivered(topic, data, qos)
        finally:
            self._link.senders.discard(task)
            self._link.pending_bytes -= size

    def _undelivered(self, topic: str, data: bytes, qos: int) -> None:
        if qos:
            self._session.keep(topic, data, qos)
            self._session.recall()
