"""Inference over memory that is shared with a caller of this machine: the worker's side of `edgefleet_protocol.memory_frames`.

1. Whoever may use the unix socket may have a region, and nobody else: it comes over that socket. One connection, one region, which no other
   caller ever sees; it is new and full of zeros.
2. The worker makes the memfd, gives it its memory and seals its size before it hands it out, so that a caller can neither shrink it under
   the worker's hands (SIGBUS) nor fill the device with it. `MAX_REGIONS` and `MAX_REGIONS_BYTES` bound all of them.
3. A caller can keep its descriptor after the connection has ended. So the worker takes the memory out of a region when it lets go of it;
   what is written there later is the caller's own. Not while draining: then a caller may still be reading its last answer.
4. The caller can write into the region at any moment. So a body is copied once and read from the copy, as one that came over the socket.
5. From there on it is an ordinary request: the same handler, limits, counters, capture, shadow and split.
"""

import asyncio
import fcntl
import logging
import mmap
import os
import socket
import sys
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress

from edgefleet_agent.worker.http.model_calls import QuickAnswer
from edgefleet_agent.worker.http.server import (
    HttpServer,
    Request,
    Response,
    error_response,
    worker_failed,
)
from edgefleet_agent.worker.http.wire import BINARY_HEADER
from edgefleet_agent.worker.observe.answer_log import TRACE_HEADER
from edgefleet_protocol.memory_frames import (
    BYTES_HEADER,
    CLOSES,
    IDLE_S,
    IN_STREAM,
    LOCATION_HEADER,
    MAX_REGIONS,
    MAX_REGIONS_BYTES,
    REPLY,
    REQUEST,
    UPGRADE,
    region_bytes,
)
from edgefleet_runtime.port import Array

_log = logging.getLogger(__name__)
_UPGRADE = UPGRADE.encode()
_BYTES = BYTES_HEADER.encode()
_LOCATION = LOCATION_HEADER.encode()
_NOT_KEPT = frozenset({b"connection", b"upgrade", b"host", b"content-length", _BYTES})

HomeOf = Callable[[str], str | None]
Quick = Callable[[Request], QuickAnswer | Response | None]


class MemoryServer:
    """The regions of one worker. Used in the event loop only."""

    def __init__(self, server: HttpServer, home_of: HomeOf, quick: Quick) -> None:
        """home_of: where requests for a target are served if not here. quick: `Api.quick`; where it says None, the handler is asked."""
        self._server = server
        self._home_of = home_of
        self._quick = quick
        self._regions: dict[MemoryConnection, int] = {}

    def is_wanted(self, headers: list[tuple[bytes, bytes]]) -> bool:
        """Say whether a request asks for shared memory."""
        return any(name == b"upgrade" and value == _UPGRADE for name, value in headers)

    def take(self, request: Request, connection: socket.socket) -> Response | None:
        """Hand a region out on that connection and serve it, or return why not."""
        home = self._home_of(request.target)
        if home:
            return error_response(
                421, "Another worker of this device serves this model.", headers=[(_LOCATION, home.encode())]
            )
        text = request.header(_BYTES) or b""
        size = region_bytes(max(1, int(text))) if text.isdigit() and len(text) < 12 else 0
        if not 0 < size <= region_bytes(self._server.max_body_bytes):
            return error_response(413, f"Shared memory is for bodies up to {self._server.max_body_bytes} bytes.")
        if len(self._regions) >= MAX_REGIONS or sum(self._regions.values()) + size > MAX_REGIONS_BYTES:
            return error_response(503, "No more shared memory is given out by this worker; use the socket.")
        try:
            if sys.byteorder != "little":
                raise OSError("its tensors are not little-endian")
            descriptor = _sealed(size)
        except (OSError, AttributeError) as e:  # no memory, or a system without memfd
            return error_response(501, f"this device has no shared memory to give: {e}; use the socket")
        head = f"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: {UPGRADE}\r\n{BYTES_HEADER}: {size}\r\n\r\n"
        try:
            socket.send_fds(connection, [head.encode()], [descriptor])
            region = mmap.mmap(descriptor, size)
        except OSError as e:
            return error_response(503, f"the shared memory could not be handed over: {e}; use the socket")
        finally:
            os.close(descriptor)
        kept = [header for header in request.headers if header[0] not in _NOT_KEPT]
        asked = Request("POST", request.target, kept, b"")
        one = MemoryConnection(self._server, self._quick, asked, connection, region, self._forget)
        self._regions[one] = size
        return None

    def _forget(self, connection: "MemoryConnection") -> None:
        self._regions.pop(connection, None)


class MemoryConnection:
    """One caller with its region. It counts among the connections of the server, with its limit, its idle time and its drain."""

    def __init__(
        self,
        server: HttpServer,
        quick: Quick,
        asked: Request,
        connection: socket.socket,
        region: mmap.mmap,
        on_close: "Callable[[MemoryConnection], None]",
    ) -> None:
        """asked: each of its requests, but for its body."""
        self._server = server
        self._quick = quick
        self._asked = asked
        self._headers: dict[int, list[tuple[bytes, bytes]]] = {}
        self._socket = connection
        self._region = region
        self._on_close = on_close
        self._loop = asyncio.get_running_loop()
        self._answering: asyncio.Task[None] | None = None
        self._is_open = True
        self._used_at_s = self._loop.time()
        self._timer = self._loop.call_later(IDLE_S, self._check_idle)
        connection.setblocking(False)
        server.connections.add(self)
        self._loop.add_reader(connection.fileno(), self._rung)

    def close_if_idle(self) -> None:
        """Close unless a request is being answered."""
        if self._answering is None:
            self.abort()

    def abort(self) -> None:
        """Let go of region and connection; a running inference finishes unheard."""
        if not self._is_open:
            return
        self._is_open = False
        self._timer.cancel()
        self._loop.remove_reader(self._socket.fileno())
        self._socket.close()
        if not self._server.draining:
            with suppress(OSError):  # a kernel that cannot
                self._region.madvise(mmap.MADV_REMOVE)
        self._region.close()
        self._server.connections.discard(self)
        self._on_close(self)
        self._server.on_close()

    def _rung(self) -> None:
        try:
            data = self._socket.recv(REQUEST.size + 1)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        region = self._region
        if len(data) != REQUEST.size:
            self._break_off(data)
            return
        document, size = REQUEST.unpack(data)
        if not 0 < document <= size <= len(region):
            self._break_off(data)
            return
        request = Request("POST", self._asked.target, self._headers_of(document), region[:size])
        try:
            answer = self._quick(request) or self._server.handler(request)
        except Exception:  # noqa: BLE001 - outermost loop of a connection: one bad request must not end the worker
            answer = worker_failed()
        if isinstance(answer, QuickAnswer | Response):
            rest = self._reply(answer)
            if rest:
                self._later(self._stream(rest))
        else:
            self._later(self._wait_for(answer))

    def _break_off(self, data: bytes) -> None:
        if data:
            _log.warning("a caller broke the rules of shared memory: bytes=%s", data.hex())
        self.abort()

    def _headers_of(self, document: int) -> list[tuple[bytes, bytes]]:
        found = self._headers.get(document)
        if found is None:
            if len(self._headers) >= MAX_REGIONS:
                self._headers.clear()
            found = self._headers[document] = [(BINARY_HEADER, str(document).encode()), *self._asked.headers]
        return found

    def _later(self, work: Coroutine[None, None, None]) -> None:
        """Answer in a task; until it is done, nothing more is read."""
        self._loop.remove_reader(self._socket.fileno())
        self._answering = self._loop.create_task(work)

    async def _wait_for(self, answer: Awaitable[Response]) -> None:
        try:
            response = await answer
        except Exception:  # noqa: BLE001 - as in _rung
            response = worker_failed()
        await self._stream(self._reply(response) if self._is_open else ())

    async def _stream(self, rest: Sequence[bytes | Array]) -> None:
        try:
            for one in rest:
                if self._is_open:
                    await self._loop.sock_sendall(self._socket, one if isinstance(one, bytes) else one.tobytes())
        except OSError:
            self.abort()
        self._answering = None
        if self._is_open and self._server.draining:
            self.abort()
        elif self._is_open:
            self._loop.add_reader(self._socket.fileno(), self._rung)

    def _reply(self, answer: Response | QuickAnswer) -> Sequence[bytes | Array]:
        """Answer; return what is still to be sent of an answer that does not fit into the region."""
        parts: Sequence[bytes | Array]
        if isinstance(answer, QuickAnswer):
            status, trace, document = 200, answer.trace_id.encode(), len(answer.document)
            parts = [answer.document, *answer.tensors]
        else:
            status, trace, document, parts = answer.status, b"", len(answer.body), [answer.body]
            for name, value in answer.headers:
                lower = name.lower()
                if lower == TRACE_HEADER:
                    trace = value
                elif lower == BINARY_HEADER:
                    document = int(value)
        sizes = [len(one) if isinstance(one, bytes) else one.nbytes for one in parts]
        size, end, is_last = sum(sizes), 0, self._server.draining
        fits = size <= len(self._region)
        if fits:
            for one, length in zip(parts, sizes, strict=True):
                self._region[end : end + length] = memoryview(one)  # type: ignore[arg-type]  # numpy 1.26 does not say that an array is a buffer
                end += length
        flags = (0 if fits else IN_STREAM) | (CLOSES if is_last else 0)
        message = REPLY.pack(status, flags, len(trace), document, size) + trace
        self._used_at_s = self._loop.time()
        try:
            is_sent = self._socket.send(message) == len(message)
        except OSError:
            is_sent = False
        if not is_sent or (fits and is_last):
            self.abort()
            return ()
        return () if fits else parts

    def _check_idle(self) -> None:
        left_s = self._used_at_s + IDLE_S - self._loop.time()
        if self._answering is None and left_s <= 0:
            self.abort()
        else:
            self._timer = self._loop.call_later(max(1.0, left_s), self._check_idle)


def _sealed(size: int) -> int:
    """Return a memfd of that size which has its memory and can be neither shrunk nor grown. Raises OSError, AttributeError."""
    descriptor = os.memfd_create("edgefleet-tensors", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.posix_fallocate(descriptor, 0, size)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
