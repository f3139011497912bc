"""agentd's end of the install child: start it, relay packets, notice its end.

1. Descriptor 3 of the child is the socket; everything else of ours is close-on-exec.
2. Sending never blocks: what the socket does not take waits here, at most MAX_WAITING packets; blocks beyond that are lost, and
   the child asks again.
"""

import logging
import os
import signal
import socket
import sys
from collections import deque
from collections.abc import Callable, Sequence

from edgefleet_agent.core.loop import Loop
from edgefleet_agent.install.verifier_protocol import (
    CHILD_FD,
    MAX_DOCUMENT_PART_BYTES,
    MAX_PACKET_BYTES,
    Blocks,
    Document,
    FromChild,
    Task,
    ToChild,
    decode_from_child,
    encode_packet,
)
from edgefleet_protocol.errors import BadMessageError

MAX_WAITING = 64
MODULE = "edgefleet_agent.verifier"

log = logging.getLogger(__name__)


class VerifierProcess:
    """One running install child. `on_packet` and `on_end` are called in the loop; `on_end` once, after the last packet."""

    def __init__(
        self,
        loop: Loop,
        task: Task,
        document: bytes | None,
        on_packet: Callable[[FromChild], None],
        on_end: Callable[[], None],
        command: Sequence[str] = (),
    ) -> None:
        self._loop = loop
        self.task = task
        self._on_packet = on_packet
        self._on_end = on_end
        self._waiting: deque[bytes] = deque()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (ours, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * MAX_PACKET_BYTES)
        ours.setblocking(False)
        self._sock = ours
        argv = [*(command or (sys.executable,)), "-m", MODULE]
        try:
            self.pid = os.posix_spawnp(
                argv[0],
                argv,
                dict(os.environ),
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_DUP2, theirs.fileno(), CHILD_FD),
                ],
            )
        finally:
            theirs.close()
        self._is_open = True
        loop.watch(ours.fileno(), self._readable)
        self.send(task)
        if document is not None:
            self._send_document(document)

    def send(self, packet: ToChild) -> None:
        """Send or queue one packet."""
        if not self._is_open:
            return
        if isinstance(packet, Blocks) and len(self._waiting) >= MAX_WAITING:
            return
        self._waiting.append(encode_packet(packet))
        self._flush()

    def kill(self) -> None:
        """End the child now; `on_end` is not called any more. What it wrote so far is resumed by the next one."""
        if self._is_open:
            self._close()
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)

    def _send_document(self, document: bytes) -> None:
        parts = range(0, max(1, len(document)), MAX_DOCUMENT_PART_BYTES)
        for start in parts:
            data = document[start : start + MAX_DOCUMENT_PART_BYTES]
            self.send(Document(data, start + MAX_DOCUMENT_PART_BYTES >= len(document)))

    def _flush(self) -> None:
        while self._waiting:
            try:
                self._sock.send(self._waiting[0])
            except BlockingIOError:
                self._loop.watch_write(self._sock.fileno(), self._readable, self._flush)
                return
            except OSError:
                self._waiting.clear()  # the child is gone; the read side will say so
                return
            self._waiting.popleft()
        if self._is_open:
            self._loop.watch_write(self._sock.fileno(), self._readable, None)

    def _readable(self) -> None:
        while self._is_open:
            try:
                data = self._sock.recv(MAX_PACKET_BYTES)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self._ended()
                return
            try:
                packet = decode_from_child(data)
            except BadMessageError as error:
                log.warning("install child speaks another language", extra={"reason": error.message})
                continue
            self._on_packet(packet)

    def _ended(self) -> None:
        self._close()
        os.kill(self.pid, signal.SIGKILL)  # it closed its socket: whatever it still does is of no use
        os.waitpid(self.pid, 0)
        self._on_end()

    def _close(self) -> None:
        self._is_open = False
        self._loop.unwatch(self._sock.fileno())
        self._sock.close()
