"""HTTP/1.1 on one accepted connection: h11 parses, this moves bytes, enforces limits and keeps order.

1. One request at a time per connection; pipelined bytes wait in the parser while reading is paused.
2. A connection begins plain: requests in the one form that `plain_request` reads never meet h11 (ADR 0026). From the first other one on,
   the connection is h11's to its end: between two requests there is no state that could be lost.
3. Limits: 64 KiB of headers, `max_body_bytes`, 10 s for a head, 60 s for a body, 75 s idle. Breaking one is answered, then closed.
4. The loopback port is for programs of this machine, not for web pages that its browser shows. A page can send a POST to 127.0.0.1
   (then it names itself in `Origin`), and can have its own host name resolve to 127.0.0.1 so that it may read answers too (then that
   name is in `Host`). Neither is let in. The unix socket is out of reach of pages.
5. While draining, every answer says `Connection: close`; an idle connection is closed by `close_if_idle`.
"""

import asyncio
import logging
import os
import socket
from collections.abc import Awaitable, Callable
from typing import Protocol

import h11
import msgspec

from edgefleet_agent.worker.http.plain_request import END, Head, read_head, refusal_of
from edgefleet_agent.worker.http.quick_answer import QuickAnswer

_log = logging.getLogger(__name__)
_QUICK = (
    b"HTTP/1.1 200 \r\nContent-Type: application/octet-stream\r\nX-Edgefleet-Trace: %b\r\n"
    b"Inference-Header-Content-Length: %d\r\nContent-Length: %d\r\n\r\n%b"
)

MAX_HEAD_BYTES = 64 * 1024
HEAD_TIMEOUT_S = 10.0
BODY_TIMEOUT_S = 60.0
IDLE_TIMEOUT_S = 75.0
JSON_TYPE = b"application/json"


class Request(msgspec.Struct, frozen=True):
    """One whole request. headers: names in lower case."""

    method: str
    target: str
    headers: list[tuple[bytes, bytes]]
    body: bytes

    def header(self, name: bytes) -> bytes | None:
        """Return the first header of that lower-case name."""
        for key, value in self.headers:
            if key == name:
                return value
        return None


class Response(msgspec.Struct, frozen=True):
    """One answer; Content-Length and Connection are added by the connection."""

    status: int
    body: bytes
    content_type: bytes = JSON_TYPE
    headers: list[tuple[bytes, bytes]] = []


def json_response(status: int, value: object) -> Response:
    """Return a JSON answer."""
    return Response(status, msgspec.json.encode(value))


def error_response(status: int, message: str, *, headers: list[tuple[bytes, bytes]] | None = None) -> Response:
    """Return an Open Inference Protocol error body."""
    return Response(status, msgspec.json.encode({"error": message}), headers=headers or [])


Handler = Callable[[Request], QuickAnswer | Response | Awaitable[Response]]


class Connection(Protocol):
    """What a server knows of each of its connections."""

    def close_if_idle(self) -> None:
        """Close unless a request is being read or answered."""
        ...

    def abort(self) -> None:
        """Cut the connection."""
        ...


class Upgrade(Protocol):
    """Another protocol that a connection of the unix socket may change to."""

    def is_wanted(self, headers: list[tuple[bytes, bytes]]) -> bool:
        """Say whether a request asks for it. headers: names in lower case."""
        ...

    def take(self, request: Request, connection: socket.socket) -> Response | None:
        """Answer the request on that connection and keep it; or return why not, and leave it alone."""
        ...


def worker_failed() -> Response:
    """Log the error that is being handled and return what the caller gets."""
    _log.exception("request failed")
    return error_response(500, "the worker failed to answer; see its log")


class HttpServer:
    """What the connections of one worker share: the handler, the limits, and whether it drains."""

    def __init__(self, handler: Handler, max_body_bytes: int) -> None:
        self.handler = handler
        self.max_body_bytes = max_body_bytes
        self.draining = False
        self.connections: set[Connection] = set()
        self.upgrade: Upgrade | None = None
        self.on_close: Callable[[], None] = lambda: None

    def connection(self) -> "HttpConnection":
        """Return the protocol for one accepted connection."""
        return HttpConnection(self)

    def close_idle(self) -> None:
        """Close all connections that have no request in progress."""
        for connection in list(self.connections):
            connection.close_if_idle()


class _Known(msgspec.Struct, frozen=True):
    """A plain head that this connection has sent: the next one is most often the same. refusal: of `refusal_of`."""

    raw: bytes
    head: Head
    refusal: str | None


class HttpConnection(asyncio.Protocol):
    """One connection. While it is plain, `_h11` is None, `_rest` is what came and was not read, `_head` the request in progress."""

    def __init__(self, server: HttpServer) -> None:
        self._server = server
        self._transport: asyncio.Transport | None = None
        self._known: _Known | None = None
        self._head: Head | None = None
        self._rest = b""
        self._has_ended = False
        self._h11: h11.Connection | None = None
        self._request: h11.Request | None = None
        self._headers: list[tuple[bytes, bytes]] = []
        self._head_began = False
        self._chunks: list[bytes] = []
        self._body_bytes = 0
        self._answering: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._deadline = self._loop.time() + HEAD_TIMEOUT_S
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self._is_tcp = False

    # ---- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        connected = transport.get_extra_info("socket")
        self._is_tcp = connected is not None and connected.family != socket.AF_UNIX
        self._server.connections.add(self)
        self._timer = self._loop.call_at(self._deadline, self._check_deadline)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection; a running inference finishes unheard."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        self._server.connections.discard(self)
        self._server.on_close()

    def data_received(self, data: bytes) -> None:
        """Feed the parser."""
        if self._h11 is not None:
            self._h11.receive_data(data)
        elif self._head is not None and self._answering is None:
            self._chunks.append(data)
            self._body_bytes += len(data)
            if self._body_bytes < self._head.body_bytes:
                return
            self._rest, self._chunks = b"".join(self._chunks), []
        else:
            self._rest = self._rest + data if self._rest else data
        if self._answering is None:
            self._advance()
        elif self._transport is not None:
            # more than the request in progress: let the kernel hold the rest
            self._transport.pause_reading()

    def eof_received(self) -> bool:
        """Keep the write side open while an answer is being made."""
        self._has_ended = True
        if self._h11 is not None:
            self._h11.receive_data(b"")
        if self._answering is None:
            self._advance()
        return self._answering is not None

    # ---- reading

    def _advance(self) -> None:
        while self._h11 is None:
            if not self._advance_plain():
                return
        try:
            while True:
                event = self._h11.next_event()
                if event is h11.NEED_DATA:
                    self._wait_for_more()
                    return
                if event is h11.PAUSED or isinstance(event, h11.ConnectionClosed):
                    self._close()
                    return
                if self._take(event):
                    return
        except h11.RemoteProtocolError as e:
            self._refuse(e.error_status_hint, f"the request is not valid HTTP/1.1: {e}")

    def _advance_plain(self) -> bool:
        """Read one plain request; True when there is more to do now: it was answered, or it is h11's (rule 2)."""
        data, head = self._rest, self._head
        if head is None:
            if not data:
                if self._has_ended:
                    self._close()
                return False
            known = self._known
            end = len(known.raw) if known is not None else 0
            if known is None or not data.startswith(known.raw):
                end = data.find(END) + len(END)
                known = self._known = self._read(data[:end])
                if known is None:
                    self._use_h11()
                    return True
            if known.refusal is not None:
                self._refuse(403, known.refusal)
                return False
            head = self._head = known.head
            if head.body_bytes > self._server.max_body_bytes:
                self._refuse_size()
                return False
            data = data[end:]
        if len(data) < head.body_bytes:
            if self._has_ended:
                self._refuse(400, "the request is not valid HTTP/1.1: it ended before its body did")
                return False
            self._rest, self._chunks, self._body_bytes = b"", [data], len(data)
            self._deadline = self._loop.time() + BODY_TIMEOUT_S
            self._arm()
            return False
        self._rest = data[head.body_bytes :]
        return self._dispatch(Request(head.method, head.target, head.headers, data[: head.body_bytes]))

    def _read(self, raw: bytes) -> _Known | None:
        head = read_head(raw) if len(raw) <= MAX_HEAD_BYTES else None
        return _Known(raw, head, refusal_of(head.headers) if self._is_tcp else None) if head is not None else None

    def _use_h11(self) -> None:
        self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)
        self._h11.receive_data(self._rest)
        if self._has_ended:
            self._h11.receive_data(b"")
        self._rest = b""

    def _take(self, event: object) -> bool:
        """Take one event of h11; True when reading stops for now."""
        assert self._h11 is not None
        if isinstance(event, h11.Request):
            self._request, self._chunks, self._body_bytes = event, [], 0
            self._headers = list(event.headers)  # once: each walk over h11's own sequence is slow
            self._deadline = self._loop.time() + BODY_TIMEOUT_S
            if event.http_version not in {b"1.0", b"1.1"}:
                self._refuse(505, "this server speaks HTTP/1.1")
                return True
            # the parser's own limit counts only heads that are not complete yet
            if sum(len(name) + len(value) for name, value in self._headers) > MAX_HEAD_BYTES:
                self._refuse(431, f"the headers are larger than {MAX_HEAD_BYTES} bytes")
                return True
            refusal = refusal_of(self._headers) if self._is_tcp else None
            if refusal is not None:
                self._refuse(403, refusal)
                return True
            announced = next((v for k, v in self._headers if k == b"content-length"), b"0")
            if int(announced) > self._server.max_body_bytes:
                self._refuse_size()
                return True
            if self._h11.they_are_waiting_for_100_continue:
                self._write(self._h11.send(h11.InformationalResponse(status_code=100, headers=[])))
        elif isinstance(event, h11.Data):
            self._body_bytes += len(event.data)
            if self._body_bytes > self._server.max_body_bytes:
                self._refuse_size()
                return True
            self._chunks.append(bytes(event.data))
        elif isinstance(event, h11.EndOfMessage):
            assert self._request is not None
            body = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
            self._chunks = []
            method, target = self._request.method.decode("ascii"), self._request.target.decode("ascii")
            request = Request(method, target, self._headers, body)
            upgrade = self._server.upgrade
            if upgrade is not None and not self._is_tcp and upgrade.is_wanted(self._headers):
                return self._change(upgrade, request)
            return not self._dispatch(request)
        return False

    def _change(self, upgrade: Upgrade, request: Request) -> bool:
        """Let another protocol have the connection; True when reading stops for now."""
        assert self._transport is not None
        connection = socket.socket(fileno=os.dup(self._transport.get_extra_info("socket").fileno()))
        refusal = upgrade.take(request, connection)
        if refusal is not None:
            connection.close()
            return not self._respond(refusal)
        self.abort()  # this end of it; the descriptor is the other protocol's now
        return True

    def _wait_for_more(self) -> None:
        assert self._h11 is not None
        if self._request is None:
            idle = self._h11.trailing_data[0] == b""
            # the clock of a head starts with its first byte and is not moved by the next ones
            if idle or not self._head_began:
                self._deadline = self._loop.time() + (IDLE_TIMEOUT_S if idle else HEAD_TIMEOUT_S)
            self._head_began = not idle
        self._arm()

    def _dispatch(self, request: Request) -> bool:
        """Hand the request over; True when it is answered already and the next one may be read."""
        try:
            answer = self._server.handler(request)
        except Exception:  # noqa: BLE001 - outermost loop of a connection: one bad request must not end the worker
            answer = worker_failed()
        if isinstance(answer, QuickAnswer):
            if self._h11 is None and not self._server.draining and (self._head is None or not self._head.closes):
                self._head = None
                self._write(_rendered_quick(answer))
                self._deadline = self._loop.time() + IDLE_TIMEOUT_S
                return True
            return self._respond(whole(answer))
        if isinstance(answer, Response):
            return self._respond(answer)
        self._answering = self._loop.create_task(self._wait_for(answer))
        return False

    # ---- answering

    async def _wait_for(self, answer: Awaitable[Response]) -> None:
        try:
            response = await answer
        except Exception:  # noqa: BLE001 - as in _dispatch
            response = worker_failed()
        finally:
            self._answering = None
        if not self._closed and self._respond(response):
            if self._transport is not None and not self._transport.is_reading():
                self._transport.resume_reading()
            self._advance()

    def _respond(self, response: Response) -> bool:
        """Send the answer; True when the connection takes another request."""
        head, self._head = self._head, None
        if self._h11 is None:
            closes = self._server.draining or (head is not None and head.closes)
            self._write(_rendered(response, closes=closes))
            if closes:
                self._close()
                return False
            self._deadline = self._loop.time() + IDLE_TIMEOUT_S
            return True
        self._send(self._h11, response, close=self._server.draining)
        self._request, self._head_began = None, False
        try:
            self._h11.start_next_cycle()
        except h11.LocalProtocolError:  # either side said close, or the answer could not be sent
            self._close()
            return False
        return True

    def _send(self, parser: h11.Connection, response: Response, *, close: bool) -> None:
        headers = [
            (b"Content-Type", response.content_type),
            (b"Content-Length", str(len(response.body)).encode()),
            *response.headers,
        ]
        if close:
            headers.append((b"Connection", b"close"))
        try:
            parts = [parser.send(h11.Response(status_code=response.status, headers=headers))]
            if not (self._request is not None and self._request.method == b"HEAD"):
                parts.append(parser.send(h11.Data(data=response.body)))
            parts.append(parser.send(h11.EndOfMessage()))
        except h11.LocalProtocolError:
            self._close()
            return
        self._write(b"".join(part for part in parts if part))

    def _refuse(self, status: int, message: str) -> None:
        """Answer with an error and close: the rest of the connection cannot be trusted."""
        response = error_response(status, message)
        if self._h11 is None:
            self._write(_rendered(response, closes=True))
        elif self._h11.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
            self._send(self._h11, response, close=True)
        self._rest = b""
        self._close()

    def _refuse_size(self) -> None:
        limit = self._server.max_body_bytes
        self._refuse(413, f"the body is larger than the {limit} bytes that this device accepts")

    def _write(self, data: bytes | None) -> None:
        if data and self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    # ---- ending

    def close_if_idle(self) -> None:
        """Close unless a request is being read or answered."""
        if self._answering is None and not self._is_reading:
            self._close()

    @property
    def _is_reading(self) -> bool:
        """Whether a request has begun to arrive."""
        if self._h11 is None:
            return self._head is not None or bool(self._rest)
        return self._request is not None or self._h11.trailing_data[0] != b""

    def abort(self) -> None:
        """Cut the connection."""
        if self._transport is not None:
            self._transport.abort()

    def _close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def _arm(self) -> None:
        # an armed timer is left alone when the deadline only moved away: it looks again when it fires
        if self._timer is None or self._timer.when() > self._deadline:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_at(self._deadline, self._check_deadline)

    def _check_deadline(self) -> None:
        self._timer = None
        if self._closed:
            return
        if self._answering is not None or self._loop.time() < self._deadline:
            later = self._loop.time() + 1.0 if self._answering is not None else self._deadline
            self._timer = self._loop.call_at(later, self._check_deadline)
        elif self._request is not None or self._head is not None:
            self._refuse(408, f"the body did not arrive within {BODY_TIMEOUT_S:g} s")
        elif self._is_reading:
            self._refuse(408, f"the head of the request did not arrive within {HEAD_TIMEOUT_S:g} s")
        else:
            self._close()


def whole(answer: QuickAnswer) -> Response:
    """Return such an answer with its headers."""
    headers = [(b"X-Edgefleet-Trace", answer.trace_id.encode())]
    if not answer.tensors:
        return Response(200, answer.document, headers=headers)
    headers.append((b"Inference-Header-Content-Length", b"%d" % len(answer.document)))
    return Response(200, b"".join(answer.raw()), b"application/octet-stream", headers)


def _rendered_quick(answer: QuickAnswer) -> bytes:
    """Return `whole` as bytes, by fewer steps."""
    if not answer.tensors:
        return _rendered(whole(answer), closes=False)
    body = b"".join(answer.raw())
    return _QUICK % (answer.trace_id.encode(), len(answer.document), len(body), body)


def _rendered(response: Response, *, closes: bool) -> bytes:
    """Return the answer to a plain request as bytes. Header values are our own, or were read by h11 from another worker."""
    parts = [b"HTTP/1.1 %d \r\nContent-Type: %b\r\n" % (response.status, response.content_type)]
    parts += [b"%b: %b\r\n" % header for header in response.headers]
    parts.append(b"Content-Length: %d\r\n%b\r\n" % (len(response.body), b"Connection: close\r\n" if closes else b""))
    parts.append(response.body)
    return b"".join(parts)
