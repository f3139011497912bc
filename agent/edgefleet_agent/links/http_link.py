"""One kept connection of HTTP/1.1, for requests that are one write and answers that are read into one buffer.

1. `http.client` cost 115 to 155 µs a request: it writes head and body apart, which wakes the worker twice, and parses headers as e-mail.
2. Answers of our worker and of the proxies in front of it carry `Content-Length`. Another framing is refused, never guessed.
3. A caller mostly asks with arrays of the same kind as before: `ask_again` copies them into the request that was sent, and the outputs out
   of the answer, where nothing but the values has changed.
4. Not for several threads at once; `client.Model` lets its callers take turns.
"""

import contextlib
import socket
import struct
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from edgefleet_agent.links.tensors import Place, RequestPlan, Tensor, answered, laid_out, put, taken

Buffer = bytes | bytearray | memoryview
Address = str | tuple[str, int]
"""Path of a unix socket, or host and port."""

_END = b"\r\n\r\n"
_BUFFER_BYTES = 64 * 1024


class BadAnswerError(Exception):
    """What came back is not an HTTP/1.1 answer with a length."""


class Reply(NamedTuple):
    """An answer. trace: its id. document: what is JSON of the body, or all of it; tails: the binary tensors behind that.

    tails: the caller's own, nothing else refers to it.
    """

    status: int
    trace: str | None
    document: bytes
    tails: bytearray


class _Known(NamedTuple):
    """An answer that came in one piece: the next one is most often the same but for its trace and its tensors."""

    before_trace: bytes
    trace_at: int
    after_trace: bytes
    after_at: int
    tails_at: int
    size: int
    reply: Reply

    def is_in(self, data: bytearray, filled: int) -> bool:
        """Say whether this is the answer that fills a buffer."""
        return (
            filled == self.size
            and data.startswith(self.after_trace, self.after_at)
            and data.startswith(self.before_trace)
        )


class _Asked(NamedTuple):
    """A request that was answered, and its answer, but for the values."""

    request: bytearray
    inputs: list[Tensor]
    answer: _Known
    outputs: list[Tensor]


class HttpLink:
    """A connection that is made when first needed and kept. timeout_s: of each wait for the other side."""

    def __init__(self, address: Address, timeout_s: float) -> None:
        self._address = address
        self._timeout_s = timeout_s
        self._socket: socket.socket | None = None
        self._data = bytearray(_BUFFER_BYTES)
        self._view = memoryview(self._data)
        self._known: _Known | None = None
        self._asked: _Asked | None = None
        self.trace = bytearray()
        """Id of the last answer of `ask_again`."""

    @property
    def is_open(self) -> bool:
        """Whether a connection is kept."""
        return self._socket is not None

    def close(self) -> None:
        """Close the connection; the next request makes another."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def exchange(self, parts: Sequence[Buffer], size: int) -> Reply:
        """Send one request of `size` bytes, head and body, and return the answer.

        Raises OSError, BadAnswerError; the connection is closed then.
        """
        try:
            if self._socket is None:
                self._socket = connected(self._address, self._timeout_s)
            reply, closes = self._exchange(self._socket, parts, size)
        except (
            BaseException
        ):  # Ctrl-C too: an answer that is still to come must not be read as that of the next request
            self.close()
            raise
        if closes:
            self.close()
        return reply

    def ask_again(self, inputs: Mapping[str, Any]) -> dict[str, Any] | Reply | None:
        """Return the outputs, or the whole answer where it is another than expected; None when `exchange` must do it.

        None without a request of such arrays before, or when the connection ended. Raises OSError, BadAnswerError; it is closed then.
        """
        asked, connection, data = self._asked, self._socket, self._data
        if asked is None or connection is None or not put(inputs, asked.inputs):
            return None
        try:
            sent = connection.send(asked.request)
            if sent != len(asked.request):
                _send_rest(connection, [asked.request], sent)
            filled = received(connection, self._view)
            known = asked.answer
            if not known.is_in(data, filled):
                reply, closes = self._read_on(connection, filled)
                if closes:
                    self.close()
                return reply
        except BaseException as error:  # as in `exchange`
            self.close()
            if isinstance(error, BlockingIOError):
                raise TimeoutError("timed out") from error
            if isinstance(error, ConnectionError):
                return None
            raise
        self.trace = data[known.trace_at : known.after_at]
        return taken(asked.outputs)

    def expect(self, plan: RequestPlan, inputs: Mapping[str, Any], outputs: Sequence[Place]) -> None:
        """Expect the last answer again, to such a request. inputs: as the plan has them; outputs: of that answer."""
        known = self._known
        if known is None or len(plan.head) + plan.body_bytes > _BUFFER_BYTES:
            return
        request = bytearray(plan.head) + bytes(plan.body_bytes - len(plan.document))
        tensors = laid_out(inputs, request, len(plan.head))
        self._asked = _Asked(request, tensors, known, answered(outputs, self._data, known.tails_at))

    def _exchange(self, connection: socket.socket, parts: Sequence[Buffer], size: int) -> tuple[Reply, bool]:
        try:
            sent = connection.sendmsg(parts)
            if sent != size:
                _send_rest(connection, parts, sent)
        except BlockingIOError as e:
            raise TimeoutError("timed out") from e
        except (BrokenPipeError, ConnectionResetError):
            # one that refuses a body may say so and close before all of it was sent
            with contextlib.suppress(OSError, BadAnswerError):
                return self._read(connection)[0], True
            raise
        return self._read(connection)

    def _read(self, connection: socket.socket) -> tuple[Reply, bool]:
        return self._read_on(connection, received(connection, self._view))

    def _read_on(self, connection: socket.socket, filled: int) -> tuple[Reply, bool]:
        """Return the answer whose first bytes are in the buffer, and whether it ends the connection."""
        view, data = self._view, self._data
        known = self._known
        if known is not None and known.is_in(data, filled):
            status, _, document, _ = known.reply
            trace = data[known.trace_at : known.after_at].decode("latin-1")
            return Reply(status, trace, document, data[known.tails_at : filled]), False
        while (end := data.find(_END, 0, filled)) < 0:
            if filled == len(data):
                raise BadAnswerError(f"its headers are larger than {_BUFFER_BYTES} bytes")
            filled += received(connection, view[filled:])
        begin = end + len(_END)
        head = _read_head(data, begin)
        size = head.body_bytes
        split = begin + min(size, head.document_bytes)
        if filled - begin >= size:
            reply = Reply(head.status, head.trace, bytes(view[begin:split]), data[split : begin + size])
            self._known = None if head.closes else _known(data[:filled], reply, split)
            return reply, head.closes
        body = bytearray(size)
        rest = memoryview(body)
        there = filled - begin
        rest[:there] = view[begin:filled]
        while there < size:
            there += received(connection, rest[there:])
        split -= begin
        return Reply(head.status, head.trace, bytes(rest[:split]), body[split:] if split else body), head.closes


def connected(address: Address, timeout_s: float) -> socket.socket:
    """Return a connection. Raises OSError."""
    if isinstance(address, tuple):
        connection = socket.create_connection(address, timeout_s)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    else:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(timeout_s)
            connection.connect(address)
        except OSError:
            connection.close()
            raise
    # the kernel counts the time: with Python's own timeout each wait is two calls of the system
    connection.settimeout(None)
    limit = struct.pack("ll", int(timeout_s), int(timeout_s % 1 * 1e6) or 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
    return connection


def _send_rest(connection: socket.socket, parts: Sequence[Buffer], sent: int) -> None:
    """Send what the kernel did not take in one call. Raises OSError."""
    for part in parts:
        view = memoryview(part).cast("B")
        if sent >= len(view):
            sent -= len(view)
        else:
            connection.sendall(view[sent:])
            sent = 0


def received(connection: socket.socket, into: memoryview) -> int:
    """Return how many bytes came, one at least. Raises OSError, TimeoutError, ConnectionResetError at the end."""
    try:
        count = connection.recv_into(into)
    except BlockingIOError as e:
        raise TimeoutError("timed out") from e
    if count == 0:
        raise ConnectionResetError("it ended before its answer did")
    return count


class _Head(NamedTuple):
    status: int
    trace: str | None
    document_bytes: int
    body_bytes: int
    closes: bool


def _read_head(data: bytearray, end: int) -> _Head:
    """Return what the head says that ends before `end`. Raises BadAnswerError."""
    first, *lines = bytes(data[: end - len(_END)]).split(b"\r\n")
    if not first.startswith(b"HTTP/1.") or not first[9:12].isdigit():
        raise BadAnswerError(f"it does not speak HTTP/1.1: {first[:40]!r}")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)}
    length = headers.get(b"content-length", b"")
    if not length.isdigit() or b"transfer-encoding" in headers:
        raise BadAnswerError("its answer has no Content-Length")
    size = int(length)
    document = headers.get(b"inference-header-content-length", length)
    trace = headers.get(b"x-edgefleet-trace")
    return _Head(
        int(first[9:12]),
        trace.decode("latin-1") if trace else None,
        int(document) if document.isdigit() else size,
        size,
        headers.get(b"connection", b"").lower() == b"close" or first.startswith(b"HTTP/1.0"),
    )


def _known(data: bytearray, reply: Reply, split: int) -> _Known | None:
    """Return what to expect again after such an answer. split: where its tensors begin."""
    if reply.trace is None or not reply.tails:
        return None
    before, found, after = bytes(data[:split]).partition(b"\r\nX-Edgefleet-Trace: " + reply.trace.encode("latin-1"))
    if not found:
        return None
    before += b"\r\nX-Edgefleet-Trace: "
    return _Known(before, len(before), after, split - len(after), split, len(data), reply)
