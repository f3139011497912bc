"""One caller with its region of shared memory: a thread that waits for its requests and answers them.

1. A thread of its own, since a round through the event loop costs more than a wait in `recv` (ADR 0076). It sleeps between requests.
2. A request that came before but for its values is answered in this thread (`_answer_again`): the places of its tensors and of those
   of its answer are known. Every other is an ordinary request and goes to the event loop, to the handler of HTTP.
3. The caller can write into the region at any moment. So what was read of it once is never read again: a body is copied, the JSON of the
   request before is compared as a copy.
4. The thread owns region and connection. The event loop ends it by shutting the connection down.
"""

import asyncio
import logging
import mmap
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np

from edgefleet_agent.worker.http.codec import InferCodec, Layout
from edgefleet_agent.worker.http.model_calls import ModelCalls
from edgefleet_agent.worker.http.quick_answer import QuickAnswer
from edgefleet_agent.worker.http.server import HttpServer, Request, Response, whole, worker_failed
from edgefleet_agent.worker.http.wire import BINARY_HEADER
from edgefleet_agent.worker.observe.answer_log import TRACE_HEADER
from edgefleet_protocol.errors import EdgefleetError
from edgefleet_protocol.memory_frames import CLOSES, IDLE_S, IN_STREAM, REPLY, REQUEST
from edgefleet_runtime.port import Array

_log = logging.getLogger(__name__)
_LOOK_S = 0.1
_STACK_BYTES = 1024 * 1024
_MAX_REPEATS = 16


class Direct(NamedTuple):
    """What answers in the caller's thread. failure: an error as the answer it is over HTTP."""

    calls: ModelCalls
    codec: InferCodec
    failure: Callable[[EdgefleetError], Response]


class _Output(NamedTuple):
    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    place: Array


class _Repeat:
    """A request that came before, and what its answer was, but for the values of both."""

    __slots__ = ("answer", "answer_bytes", "document", "end", "inputs", "layout", "outputs")

    def __init__(self, document: bytes, layout: Layout, region: mmap.mmap) -> None:
        self.document = document
        self.end = len(document)
        self.layout = layout
        self.inputs = [
            (each.name, np.frombuffer(region, each.dtype, each.count, each.begin).reshape(each.shape))
            for each in layout.slices
        ]
        self.answer = b""
        self.answer_bytes = 0
        self.outputs: list[_Output] = []

    def expect(self, answer: QuickAnswer, names: Iterable[str], region: mmap.mmap) -> None:
        """Expect such an answer from now on, where it is plain and fits."""
        position, found = len(answer.document), []
        for name, array in zip(names, answer.tensors, strict=False):
            if isinstance(array, bytes) or array.size == 0 or position + array.nbytes > len(region):
                return
            place = np.frombuffer(region, array.dtype, array.size, position).reshape(array.shape)
            found.append(_Output(name, array.dtype, array.shape, place))
            position += array.nbytes
        self.answer, self.outputs, self.answer_bytes = answer.document, found, position


class MemoryConnection:
    """One caller. It counts among the connections of the server, with its limit and its drain."""

    def __init__(
        self,
        server: HttpServer,
        direct: Direct | None,
        asked: Request,
        connection: socket.socket,
        region: mmap.mmap,
        on_close: "Callable[[MemoryConnection], None]",
    ) -> None:
        """asked: each of its requests, but for its body. direct: None where each must go to the event loop. In the event loop.

        Raises RuntimeError when there is no thread to be had.
        """
        self._server = server
        self._direct = direct
        self._asked = asked
        self._socket = connection
        self._region = region
        self._on_close = on_close
        self._loop = asyncio.get_running_loop()
        self._repeats: dict[bytes, _Repeat] = {}
        self._looked_at_s = float("-inf")
        self._is_alone = False
        connection.setblocking(True)
        limit = struct.pack("ll", int(IDLE_S), 0)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        before = threading.stack_size(
            _STACK_BYTES
        )  # of the usual size, sixteen would count much against the worker's limit
        try:
            threading.Thread(target=self._serve, name="shared-memory", daemon=True).start()
        finally:
            threading.stack_size(before)
        server.connections.add(self)

    # ---- in the event loop

    def close_if_idle(self) -> None:
        """Close once what was asked is answered."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RD)

    def abort(self) -> None:
        """Cut the connection; a running inference finishes unheard."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def _gone(self) -> None:
        self._server.connections.discard(self)
        self._on_close(self)
        self._server.on_close()

    async def _handled(self, request: Request) -> Response:
        try:
            answer = self._server.handler(request)
            if isinstance(answer, QuickAnswer):
                return whole(answer)
            return answer if isinstance(answer, Response) else await answer
        except Exception:  # noqa: BLE001 - outermost loop of a connection: one bad request must not end the worker
            return worker_failed()

    # ---- in the thread

    def _serve(self) -> None:
        try:
            self._answer_all()
        except Exception:  # noqa: BLE001 - outermost loop of this thread
            _log.exception("a connection of shared memory failed")
        self._repeats.clear()  # their arrays hold the region
        self._socket.close()
        if not self._server.draining:  # then a caller may still be reading its last answer
            with suppress(OSError):  # a kernel that cannot
                self._region.madvise(mmap.MADV_REMOVE)
        with suppress(BufferError):
            self._region.close()
        with suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._gone)

    def _answer_all(self) -> None:
        receive, region, repeats, server = self._socket.recv, self._region, self._repeats, self._server
        is_open = True
        while is_open:
            try:
                rung = receive(REQUEST.size + 1)
            except OSError:  # nothing came for IDLE_S
                return
            came_s = time.perf_counter()
            repeat = repeats.get(rung)
            if repeat is not None and region[: repeat.end] == repeat.document and not server.draining:
                is_open = self._answer_again(rung, repeat, came_s)
            else:
                is_open = self._answer(rung)

    def _answer_again(self, rung: bytes, repeat: _Repeat, came_s: float) -> bool:
        """Answer here if this thread may (rule 2); False when the connection is to end."""
        direct = self._direct
        if direct is None:
            return self._answer(rung)
        if came_s - self._looked_at_s > _LOOK_S:
            self._looked_at_s, self._is_alone = came_s, direct.calls.mode is None
        inputs = {}
        for name, place in repeat.inputs:
            inputs[name] = place.copy()
        try:
            ran = direct.calls.run_now(inputs, repeat.layout.body_bytes) if self._is_alone else None
        except EdgefleetError as e:
            return self._send(direct.failure(e))
        if ran is None:
            return self._answer(rung)
        if ran.nonfinite or not self._put(repeat, ran.outputs):
            answer = direct.calls.encoded(direct.codec, repeat.layout.request, ran)
            repeat.expect(answer, repeat.layout.request.outputs or ran.outputs, self._region)
            is_open = self._send(answer)
        else:
            trace = ran.trace_id.encode()
            head = REPLY.pack(200, 0, len(trace), len(repeat.answer), repeat.answer_bytes)
            is_open = self._told(head + trace)
        direct.calls.spent(ran, came_s)
        if direct.calls.is_full:
            direct.calls.settle()
        return is_open

    def _put(self, repeat: _Repeat, outputs: Mapping[str, Array]) -> bool:
        """Put an answer into the region; False when it is not the one that was expected."""
        expected = repeat.outputs
        for name, dtype, shape, place in expected:
            array = outputs[name]
            if array.shape != shape or array.dtype != dtype:
                return False
            place[...] = array
        self._region[: len(repeat.answer)] = repeat.answer
        return bool(expected)

    def _answer(self, rung: bytes) -> bool:
        """Let the event loop answer; False when the connection is to end."""
        document, size = REQUEST.unpack(rung) if len(rung) == REQUEST.size else (0, 0)
        if not 0 < document <= size <= len(self._region):
            if rung:
                _log.warning("a caller broke the rules of shared memory: bytes=%s", rung.hex())
            return False
        body = self._region[:size]
        headers = [(BINARY_HEADER, str(document).encode()), *self._asked.headers]
        handled = self._handled(Request("POST", self._asked.target, headers, body))
        try:
            response = asyncio.run_coroutine_threadsafe(handled, self._loop).result()
        except RuntimeError:  # the loop has ended
            handled.close()
            return False
        if response.status == 200:
            self._remember(rung, body[:document], size)
        return self._send(response)

    def _remember(self, rung: bytes, document: bytes, size: int) -> None:
        layout = self._direct.codec.layout(document, size) if self._direct is not None else None
        if layout is not None:
            if len(self._repeats) >= _MAX_REPEATS:
                self._repeats.clear()
            self._repeats[rung] = _Repeat(document, layout, self._region)

    def _send(self, answer: Response | QuickAnswer) -> bool:
        """Answer, behind the reply where the region has no room for it; False when the connection is to end."""
        if isinstance(answer, QuickAnswer):
            status, trace, document, raw = 200, answer.trace_id.encode(), len(answer.document), answer.raw()
        else:
            status, trace, document, raw = answer.status, b"", len(answer.body), [answer.body]
            for name, value in answer.headers:
                lower = name.lower()
                if lower == TRACE_HEADER:
                    trace = value
                elif lower == BINARY_HEADER:
                    document = int(value)
        size, is_last = sum(map(len, raw)), self._server.draining
        fits = size <= len(self._region)
        if fits:
            self._region[:size] = b"".join(raw)
        flags = (0 if fits else IN_STREAM) | (CLOSES if is_last else 0)
        reply = REPLY.pack(status, flags, len(trace), document, size) + trace
        return self._told(reply, [] if fits else raw) and not is_last

    def _told(self, reply: bytes, rest: Iterable[bytes] = ()) -> bool:
        """Send; False when the caller is gone or does not read for IDLE_S."""
        try:
            self._socket.sendall(reply)
            for one in rest:
                self._socket.sendall(one)
        except OSError:
            return False
        return True
