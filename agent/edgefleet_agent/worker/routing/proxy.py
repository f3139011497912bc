"""Requests for another worker of this device: kept-alive connections to its unix socket.

1. The request is passed on as it came, plus one header, so that a table that is wrong can never send it in a circle.
2. An inference has no side effect, so one that meets a connection which the other side has just closed is sent once more.
3. A worker that cannot be reached may just have been replaced, or is started again: the table is asked again for `HOLD_S`
   before the caller gets an error.
"""

import asyncio
from collections.abc import Callable

import h11

from edgefleet_agent.worker.http.server import Request, Response, error_response

FORWARDED_HEADER = b"x-edgefleet-forwarded"

MAX_IDLE_PER_WORKER = 8

HOLD_S = 1.0

_LOOK_S = 0.02

_READ_BYTES = 256 * 1024

# hop-by-hop headers (RFC 9110 §7.6.1) and those that the other hop sets itself
_NOT_PASSED = {
    b"connection",
    b"keep-alive",
    b"transfer-encoding",
    b"te",
    b"trailer",
    b"upgrade",
    b"expect",
    b"content-length",
}


class _Channel:
    """One connection to another worker."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.h11 = h11.Connection(h11.CLIENT)

    async def exchange(self, request: Request) -> tuple[Response, bool]:
        """Return the answer and whether the connection can be used again. Raises OSError, h11.RemoteProtocolError."""
        headers = [(k, v) for k, v in request.headers if k not in _NOT_PASSED]
        headers += [(FORWARDED_HEADER, b"1"), (b"content-length", str(len(request.body)).encode())]
        if not any(k == b"host" for k, _ in headers):
            headers.append((b"host", b"localhost"))
        head_event = h11.Request(method=request.method, target=request.target, headers=headers)
        events = (head_event, h11.Data(data=request.body), h11.EndOfMessage())
        data = [self.h11.send(event) for event in events]
        self.writer.write(b"".join(part for part in data if part))
        await self.writer.drain()
        head: h11.Response | None = None
        chunks: list[bytes] = []
        while True:
            event = self.h11.next_event()
            if event is h11.NEED_DATA:
                received = await self.reader.read(_READ_BYTES)
                if not received and head is None:
                    raise ConnectionResetError("the worker closed the connection")
                self.h11.receive_data(received)
            elif isinstance(event, h11.Response):
                head = event
            elif isinstance(event, h11.Data):
                chunks.append(bytes(event.data))
            elif isinstance(event, h11.EndOfMessage):
                break
            elif isinstance(event, h11.ConnectionClosed):
                raise ConnectionResetError("the worker closed the connection")
        assert head is not None
        return _response(head, b"".join(chunks)), self._reset()

    def _reset(self) -> bool:
        try:
            self.h11.start_next_cycle()
        except h11.LocalProtocolError:
            return False
        return True

    def close(self) -> None:
        self.writer.close()


class WorkerProxy:
    """Idle connections by socket path."""

    def __init__(self, timeout_s: float) -> None:
        self._idle: dict[str, list[_Channel]] = {}
        self._timeout_s = timeout_s

    async def forward(
        self, request: Request, socket_path: str | None, look: Callable[[], str | None] | None = None
    ) -> Response:
        """Return the other worker's answer; 503 when it cannot be reached, 504 when it does not answer in time.

        look: where that worker listens by the table as it is now, None while it is not ready; without it there is one try.
        """
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._patiently(request, socket_path, look)
        except TimeoutError:
            return error_response(504, f"the model's worker did not answer within {self._timeout_s:g} s")
        except (OSError, h11.RemoteProtocolError) as e:
            return error_response(503, f"the model's worker cannot be reached: {e}", headers=[(b"Retry-After", b"1")])

    async def _patiently(
        self, request: Request, socket_path: str | None, look: Callable[[], str | None] | None
    ) -> Response:
        loop = asyncio.get_running_loop()
        give_up = loop.time() + HOLD_S
        while True:
            try:
                if socket_path is None:
                    raise ConnectionRefusedError("it is not ready")
                return await self._exchange(request, socket_path)
            except (OSError, h11.RemoteProtocolError):
                if look is None or loop.time() >= give_up:
                    raise
            before, socket_path = socket_path, look()
            if socket_path is None or socket_path == before:
                await asyncio.sleep(_LOOK_S)

    async def _exchange(self, request: Request, socket_path: str) -> Response:
        pool = self._idle.setdefault(socket_path, [])
        while pool:
            try:
                return await self._over(pool.pop(), pool, request)
            except (OSError, h11.RemoteProtocolError):
                continue  # a connection that went stale while it was idle (rule 2)
        reader, writer = await asyncio.open_unix_connection(socket_path)
        return await self._over(_Channel(reader, writer), pool, request)

    async def _over(self, channel: _Channel, pool: list[_Channel], request: Request) -> Response:
        reusable = False
        try:
            response, reusable = await channel.exchange(request)
        finally:
            if reusable and len(pool) < MAX_IDLE_PER_WORKER:
                pool.append(channel)
            else:
                channel.close()
        return response

    def close(self) -> None:
        """Close all idle connections."""
        for pool in self._idle.values():
            for channel in pool:
                channel.close()
        self._idle.clear()


def _response(head: h11.Response, body: bytes) -> Response:
    content_type = b"application/json"
    headers = []
    for name, value in head.headers:
        if name == b"content-type":
            content_type = bytes(value)
        elif name not in _NOT_PASSED and name not in {b"date", b"server"}:
            headers.append((bytes(name), bytes(value)))
    return Response(head.status_code, body, content_type, headers)
