"""Inference over memory that is shared with the worker: the caller's side of `edgefleet_protocol.memory_frames`. Linux only.

1. It is an opportunity, never a need: where a region is not to be had, `exchange` says None and the caller takes the socket.
2. A caller mostly asks with arrays of the same kind as before. Then `ask_again` copies them to their places in the region, and the answers
   out of it, and looks at no JSON but to see that it is the same.
"""

import array
import mmap
import os
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from edgefleet_agent.links.http_link import Reply, connected, received
from edgefleet_agent.links.tensors import Place, RequestPlan, Tensor, answered, laid_out, put, taken
from edgefleet_protocol.memory_frames import (
    BYTES_HEADER,
    CLOSES,
    IDLE_S,
    IN_STREAM,
    LOCATION_HEADER,
    MAX_REPLY_BYTES,
    REPLY,
    REQUEST,
    UPGRADE,
    region_bytes,
)

TRY_AGAIN_S = 5.0
_HEAD_BYTES = 4096
_HOPS = 2


class _Asked(NamedTuple):
    """A request that was answered, and its answer, but for the values. head: of the reply, without the trace id."""

    document: bytes
    rung: bytes
    inputs: list[Tensor]
    head: bytes
    answer: bytes
    outputs: list[Tensor]


class MemoryLink:
    """One region and its connection, made when first needed. Not for several threads at once."""

    def __init__(self, path: str, target: str, headers: str, timeout_s: float) -> None:
        """path: the unix socket. target, headers: of the infer requests that this link stands for. timeout_s: of each wait."""
        self._path = path
        self._request = (
            f"GET {target} HTTP/1.1\r\nHost: localhost\r\n{headers}Connection: Upgrade\r\nUpgrade: {UPGRADE}\r\n"
        )
        self._timeout_s = timeout_s
        self._socket: socket.socket | None = None
        self._region: mmap.mmap | None = None
        self._capacity = 0
        self._asked: _Asked | None = None
        self.trace = b""
        """Id of the last answer of `ask_again`."""
        self._refused_at = float("-inf")
        self._refused_bytes = 0

    @property
    def is_open(self) -> bool:
        """Whether there is a region."""
        return self._capacity > 0

    def close(self) -> None:
        """Let go of region and connection."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        self._asked = None
        if self._region is not None:
            with suppress(BufferError):  # arrays of a request that was broken off; it goes with them
                self._region.close()
            self._region = None
        self._capacity = 0

    def exchange(self, document: bytes, tensors: Sequence[Any], size: int) -> Reply | None:
        """Return the answer to an infer request; None when it is to go by the socket.

        document: its JSON; size: bytes of all. Raises OSError when the worker does not answer in time; then nothing is kept.
        """
        if size <= self._capacity and (reply := self._tried(document, tensors, size)) is not None:
            return reply
        # a worker that was replaced or ended: its successor may have a region
        return self._tried(document, tensors, size) if self._opened(size) else None

    def ask_again(self, inputs: Mapping[str, Any]) -> dict[str, Any] | Reply | None:
        """Return the outputs, or the whole answer where it is another than expected; None when `exchange` must do it.

        None without a request of such arrays before. Raises TimeoutError.
        """
        asked, connection, region = self._asked, self._socket, self._region
        if asked is None or not put(inputs, asked.inputs):
            return None
        assert connection is not None
        assert region is not None
        try:
            began_s = time.monotonic()
            region[: len(asked.document)] = asked.document
            connection.send(asked.rung)
            data = connection.recv(MAX_REPLY_BYTES)
            if not data.startswith(asked.head) or region[: len(asked.answer)] != asked.answer:
                return self._read(data, began_s)
            outputs = taken(asked.outputs)
            if time.monotonic() - began_s > IDLE_S:
                self._check_region()
        except BaseException as error:  # as in `_tried`
            self.close()
            if isinstance(error, BlockingIOError):
                raise TimeoutError("timed out") from error
            if isinstance(error, OSError):
                return None
            raise
        self.trace = data[REPLY.size :]
        return outputs

    def expect(self, plan: RequestPlan, inputs: Mapping[str, Any], reply: Reply, outputs: Sequence[Place]) -> None:
        """Expect such an answer to such a request from now on. inputs: as the plan has them; outputs: of the reply."""
        region, document, answer = self._region, plan.document, reply.document
        if region is None or reply.trace is None or len(answer) + len(reply.tails) > self._capacity:
            return
        head = REPLY.pack(reply.status, 0, len(reply.trace), len(answer), len(answer) + len(reply.tails))
        self._asked = _Asked(
            document,
            REQUEST.pack(len(document), plan.body_bytes),
            laid_out(inputs, region, len(document)),
            head,
            answer,
            answered(outputs, region, len(answer)),
        )

    def _tried(self, document: bytes, tensors: Sequence[Any], size: int) -> Reply | None:
        """Return the answer, None when the connection ended. Raises TimeoutError."""
        try:
            return self._exchange(document, tensors, size)
        except (
            BaseException
        ) as error:  # Ctrl-C too: an answer that is still to come must not be read as that of the next request
            self.close()
            if isinstance(error, OSError) and not isinstance(error, TimeoutError):
                return None
            raise

    def _exchange(self, document: bytes, tensors: Sequence[Any], size: int) -> Reply:
        connection, region = self._socket, self._region
        assert connection is not None
        assert region is not None
        began_s = time.monotonic()
        begin = len(document)
        region[:begin] = document
        for tensor in tensors:
            end = begin + (len(tensor) if type(tensor) is bytes else tensor.nbytes)
            region[begin:end] = tensor
            begin = end
        connection.send(REQUEST.pack(len(document), size))
        try:
            data = connection.recv(MAX_REPLY_BYTES)
        except BlockingIOError as e:
            raise TimeoutError("timed out") from e
        return self._read(data, began_s)

    def _read(self, data: bytes, began_s: float) -> Reply:
        connection, region = self._socket, self._region
        assert connection is not None
        assert region is not None
        if len(data) < REPLY.size:
            raise ConnectionResetError("it ended before its answer did")
        status, flags, trace_bytes, document_bytes, body_bytes = REPLY.unpack_from(data)
        body_at = REPLY.size + trace_bytes
        trace = data[REPLY.size : body_at].decode("latin-1")
        if flags & IN_STREAM:
            body = _streamed(connection, data[body_at:], body_bytes)
            reply = Reply(status, trace or None, bytes(body[:document_bytes]), body[document_bytes:])
        else:
            reply = Reply(status, trace or None, region[:document_bytes], bytearray(region[document_bytes:body_bytes]))
            if time.monotonic() - began_s > IDLE_S:
                self._check_region()
        if flags & CLOSES:
            self.close()
        return reply

    def _check_region(self) -> None:
        """Raise ConnectionResetError where the worker may have emptied the region before it was read."""
        if self._socket is None or _has_ended(self._socket):
            raise ConnectionResetError("this process stood still until the region was empty again")

    def _opened(self, size: int) -> bool:
        """Make a region for bodies of that size; False when there is none to be had."""
        self.close()
        if size >= self._refused_bytes > 0 or time.monotonic() - self._refused_at < TRY_AGAIN_S:
            return False
        wanted = region_bytes(size)
        path = self._path
        for _ in range(_HOPS):
            try:
                status, path = self._open(path, wanted)
            except (OSError, ValueError, AttributeError):  # no such socket, or no such calls on this system
                status = 0
            if status == 101:
                return True
            if status != 421 or not path:
                break
        if status == 413:
            self._refused_bytes = size
        else:
            self._refused_at = time.monotonic()
        return False

    def _open(self, path: str, wanted: int) -> tuple[int, str]:
        """Return the status of the answer, and of a 421 the socket to ask. Raises OSError, ValueError."""
        connection = connected(path, self._timeout_s)
        descriptors: list[int] = []
        try:
            connection.sendall(f"{self._request}{BYTES_HEADER}: {wanted}\r\n\r\n".encode("latin-1"))
            head = _received_head(connection, descriptors)
            status = int(head[9:12])
            if status == 101 and len(descriptors) == 1:
                capacity = int(_header(head, BYTES_HEADER))
                self._region = mmap.mmap(descriptors[0], capacity)
                self._socket, self._capacity = connection, capacity
                return status, path
            return status if status != 101 else 0, _header(head, LOCATION_HEADER)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
            if self._socket is not connection:
                connection.close()


def _has_ended(connection: socket.socket) -> bool:
    """Say whether the other side has closed."""
    try:
        return connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False


def _header(head: str, name: str) -> str:
    """Return a header as it was written, "" without it."""
    for line in head.split("\r\n"):
        key, _, value = line.partition(":")
        if key.lower() == name:
            return value.strip()
    return ""


def _received_head(connection: socket.socket, descriptors: list[int]) -> str:
    """Return a head, with the descriptors that came with it. Raises OSError, ValueError."""
    data = b""
    while b"\r\n\r\n" not in data and len(data) < _HEAD_BYTES:
        piece, ancillary, flags, _ = connection.recvmsg(_HEAD_BYTES, socket.CMSG_SPACE(4 * array.array("i").itemsize))
        for level, kind, raw in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                found = array.array("i")
                found.frombytes(raw[: len(raw) - len(raw) % found.itemsize])
                descriptors.extend(found)
        if not piece or flags & socket.MSG_CTRUNC:
            raise ConnectionResetError("it ended before its answer did")
        data += piece
    return data.partition(b"\r\n\r\n")[0].decode("latin-1")


def _streamed(connection: socket.socket, begun: bytes, size: int) -> bytearray:
    body = bytearray(size)
    view = memoryview(body)
    there = len(begun)
    view[:there] = begun
    while there < size:
        there += received(connection, view[there:])
    return body
