"""HTTP/1.1 on one accepted connection: h11 parses, this moves bytes, enforces limits and keeps order.

1. One request at a time per connection; pipelined bytes wait in the parser while reading is paused.
2. Limits: 64 KiB of headers, `max_body_bytes`, 10 s for a head, 60 s for a body, 75 s idle. Breaking one is answered, then closed.
3. What comes over TCP from a web page of another origin is refused (`callers.py`).
4. While draining, every answer says `Connection: close`; an idle connection is closed by `close_if_idle`.
"""

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable

import h11
import msgspec

from edgefleet_agent.worker.callers import refusal_of

_log = logging.getLogger(__name__)

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
        return next((value for key, value in self.headers if key == name), None)


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


Handler = Callable[[Request], Response | Awaitable[Response]]


def _worker_failed() -> Response:
    _log.exception("request failed")
    return error_response(500, "The worker failed to answer; see its log.")


class HttpServer:
    """What the connections of one worker share: the handler, the limits, and whether it drains."""

    def __init__(self, handler: Handler, max_body_bytes: int) -> None:
        self.handler = handler
        self.max_body_bytes = max_body_bytes
        self.draining = False
        self.connections: set[HttpConnection] = set()
        self.on_close: Callable[[], None] = lambda: None

    def connection(self) -> "HttpConnection":
        """Return the protocol for one accepted connection."""
        return HttpConnection(self)

    def close_idle(self) -> None:
        """Close all connections that have no request in progress."""
        for connection in list(self.connections):
            connection.close_if_idle()


class HttpConnection(asyncio.Protocol):
    """One connection."""

    def __init__(self, server: HttpServer) -> None:
        self._server = server
        self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)
        self._transport: asyncio.Transport | None = None
        self._request: h11.Request | None = None
        self._headers: list[tuple[bytes, bytes]] = []
        self._chunks: list[bytes] = []
        self._body_bytes = 0
        self._answering: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._deadline = self._loop.time() + HEAD_TIMEOUT_S
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self._head_began = False
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
        self._h11.receive_data(data)
        if self._answering is None:
            self._advance()
        elif self._transport is not None:
            # more than the request in progress: let the kernel hold the rest
            self._transport.pause_reading()

    def eof_received(self) -> bool:
        """Keep the write side open while an answer is being made."""
        self._h11.receive_data(b"")
        if self._answering is None:
            self._advance()
        return self._answering is not None

    # ---- reading

    def _advance(self) -> None:
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
            self._refuse(e.error_status_hint, f"The request is not valid HTTP/1.1: {e}.")

    def _take(self, event: object) -> bool:
        """Take one event; True when reading stops for now."""
        if isinstance(event, h11.Request):
            self._request, self._chunks, self._body_bytes = event, [], 0
            self._headers = list(event.headers)  # once: each walk over h11's own sequence is slow
            self._deadline = self._loop.time() + BODY_TIMEOUT_S
            if event.http_version not in {b"1.0", b"1.1"}:
                self._refuse(505, "This server speaks HTTP/1.1.")
                return True
            # the parser's own limit counts only heads that are not complete yet
            if sum(len(name) + len(value) for name, value in self._headers) > MAX_HEAD_BYTES:
                self._refuse(431, f"The headers are larger than {MAX_HEAD_BYTES} bytes.")
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
            return not self._dispatch()
        return False

    def _wait_for_more(self) -> None:
        if self._request is None:
            idle = self._h11.trailing_data[0] == b""
            # the clock of a head starts with its first byte and is not moved by the next ones
            if idle or not self._head_began:
                self._deadline = self._loop.time() + (IDLE_TIMEOUT_S if idle else HEAD_TIMEOUT_S)
            self._head_began = not idle
        self._arm()

    def _dispatch(self) -> bool:
        """Hand the request over; True when it is answered already and the next one may be read."""
        event = self._request
        assert event is not None
        body = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks = []
        request = Request(event.method.decode("ascii"), event.target.decode("ascii"), self._headers, body)
        try:
            answer = self._server.handler(request)
        except Exception:  # noqa: BLE001 - outermost loop of a connection: one bad request must not end the worker
            answer = _worker_failed()
        if isinstance(answer, Response):
            return self._respond(answer)
        self._answering = self._loop.create_task(self._wait_for(answer))
        return False

    # ---- answering

    async def _wait_for(self, answer: Awaitable[Response]) -> None:
        try:
            response = await answer
        except Exception:  # noqa: BLE001 - as in _dispatch
            response = _worker_failed()
        finally:
            self._answering = None
        if not self._closed and self._respond(response):
            if self._transport is not None and not self._transport.is_reading():
                self._transport.resume_reading()
            self._advance()

    def _respond(self, response: Response) -> bool:
        """Send the answer; True when the connection takes another request."""
        self._send(response, close=self._server.draining)
        self._request, self._head_began = None, False
        try:
            self._h11.start_next_cycle()
        except h11.LocalProtocolError:  # either side said close, or the answer could not be sent
            self._close()
            return False
        return True

    def _send(self, response: Response, *, close: bool) -> None:
        headers = [
            (b"Content-Type", response.content_type),
            (b"Content-Length", str(len(response.body)).encode()),
            *response.headers,
        ]
        if close:
            headers.append((b"Connection", b"close"))
        try:
            parts = [self._h11.send(h11.Response(status_code=response.status, headers=headers))]
            if not (self._request is not None and self._request.method == b"HEAD"):
                parts.append(self._h11.send(h11.Data(data=response.body)))
            parts.append(self._h11.send(h11.EndOfMessage()))
        except h11.LocalProtocolError:
            self._close()
            return
        self._write(b"".join(part for part in parts if part))

    def _refuse(self, status: int, message: str) -> None:
        """Answer with an error and close: the rest of the connection cannot be trusted."""
        if self._h11.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
            self._send(error_response(status, message), close=True)
        self._close()

    def _refuse_size(self) -> None:
        limit = self._server.max_body_bytes
        self._refuse(413, f"The body is larger than the {limit} bytes that this device accepts.")

    def _write(self, data: bytes | None) -> None:
        if data and self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    # ---- ending

    def close_if_idle(self) -> None:
        """Close unless a request is being read or answered."""
        if self._answering is None and self._request is None and self._h11.trailing_data[0] == b"":
            self._close()

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
        elif self._request is not None:
            self._refuse(408, f"The body did not arrive within {BODY_TIMEOUT_S:g} s.")
        elif self._h11.trailing_data[0]:
            self._refuse(408, f"The head of the request did not arrive within {HEAD_TIMEOUT_S:g} s.")
        else:
            self._close()
