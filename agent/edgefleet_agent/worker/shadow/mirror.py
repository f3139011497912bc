"""The serving worker's side of a shadow: copies of what was answered go to the candidate's socket, or into a file for later.

1. Nothing here runs before the answer was handed to the connection, and nothing waits: a socket that is full is written on later.
2. At most QUEUE samples wait, those on their way included; a newer one is then dropped and counted. A shadow that is slow, hangs or dies
   costs the primary a refused append.
3. The shadow acknowledges each sample with one byte; two are on their way at most, so that it never waits for the next one. As long as
   it keeps up, nobody is woken for that: acknowledgements are looked at with the next sample.
4. A recording (`record`) ends at its count, its size or the first write that fails, and then gets its final name.
"""

import asyncio
import logging
import os
import socket
from collections import deque
from collections.abc import Callable
from pathlib import Path

from edgefleet_agent.worker.control.protocol import ModelRoute
from edgefleet_agent.worker.runtime.stats import WorkerStats
from edgefleet_agent.worker.shadow.frames import Hello, Sample, encode_hello, encode_sample

QUEUE = 8
ON_THE_WAY = 2
CONNECT_AGAIN_S = 0.5
PART_SUFFIX = ".part"

_log = logging.getLogger(__name__)


class Mirror:
    """Where copies go now. Used from the event loop's thread only."""

    def __init__(self, loop: asyncio.AbstractEventLoop, hello: Callable[[], Hello], figures: WorkerStats) -> None:
        self._loop = loop
        self._hello = hello
        self._figures = figures
        self._waiting: deque[Sample] = deque()
        self._socket: socket.socket | None = None
        self._path = ""
        self._unsent: list[memoryview] = []
        self._is_writing = False
        self._is_reading = False
        self._on_the_way = 0
        self._connect_at_s = 0.0
        self._recorder: _Recorder | None = None

    def is_wanted(self, route: ModelRoute | None) -> bool:
        """Say whether samples are wanted, by the routing table as it is now; what is not wanted any more is let go."""
        candidate = route.lanes.get("candidate") if route is not None and route.mode == "shadow" else None
        path = candidate.mirror if candidate is not None and candidate.state == "ready" else ""
        if path != self._path:
            self._drop_socket()
            self._path, self._connect_at_s = path, 0.0
        recording = route.recording if route is not None and route.mode == "shadow" else ""
        if self._recorder is not None and self._recorder.path != recording:
            self._recorder.close()
            self._recorder = None
        if recording and self._recorder is None and route is not None:
            self._recorder = _Recorder(recording, route.record_samples, route.record_bytes, self._hello)
        return bool(path) or (self._recorder is not None and self._recorder.is_open)

    @property
    def is_in_use(self) -> bool:
        """Whether something is open that `is_wanted` may have to let go."""
        return bool(self._path) or self._recorder is not None

    def offer(self, samples: list[Sample]) -> None:
        """Take copies of what was answered."""
        self._take_acknowledgements()
        for sample in samples:
            if self._recorder is not None and self._recorder.is_open:
                self._figures.mirrored(dropped=not self._recorder.write(sample))
            elif self._path:
                is_full = len(self._waiting) + self._on_the_way >= QUEUE
                self._figures.mirrored(dropped=is_full)
                if not is_full:
                    self._waiting.append(sample)
        self._pump()

    def close(self) -> None:
        """Let go of everything."""
        self._drop_socket()
        if self._recorder is not None:
            self._recorder.close()

    # ---- the socket

    def _pump(self) -> None:
        if self._waiting and self._socket is None and not self._connected():
            self._lose(len(self._waiting))
            return
        while self._waiting and self._on_the_way < ON_THE_WAY and not self._unsent:
            parts = encode_sample(self._waiting.popleft())
            self._on_the_way += 1
            self._send([memoryview(part) for part in parts])
        self._listen(wanted=bool(self._waiting))

    def _listen(self, *, wanted: bool) -> None:
        """Be woken by acknowledgements only while samples wait for them."""
        if self._socket is None or wanted is self._is_reading:
            return
        self._is_reading = wanted
        if wanted:
            self._loop.add_reader(self._socket.fileno(), self._acknowledged)
        else:
            self._loop.remove_reader(self._socket.fileno())

    def _connected(self) -> bool:
        if not self._path or self._loop.time() < self._connect_at_s:
            return False
        self._connect_at_s = self._loop.time() + CONNECT_AGAIN_S
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.setblocking(False)
        try:
            connection.connect(self._path)
        except OSError as error:
            connection.close()
            _log.debug("shadow cannot be reached: %s", error)
            return False
        self._socket = connection
        self._send([memoryview(part) for part in encode_hello(self._hello())])
        return self._socket is not None

    def _send(self, parts: list[memoryview]) -> None:
        if self._socket is None:
            return
        self._unsent += parts
        try:
            while self._unsent:
                sent = self._socket.sendmsg(self._unsent[:16])
                self._unsent = _after(self._unsent, sent)
        except (BlockingIOError, InterruptedError):
            if not self._is_writing:
                self._is_writing = True
                self._loop.add_writer(self._socket.fileno(), self._writable)
            return
        except OSError as error:
            _log.debug("shadow went away: %s", error)
            self._drop_socket()
            return
        if self._is_writing:
            self._is_writing = False
            self._loop.remove_writer(self._socket.fileno())

    def _writable(self) -> None:
        self._send([])
        self._pump()

    def _acknowledged(self) -> None:
        self._take_acknowledgements()
        self._pump()

    def _take_acknowledgements(self) -> None:
        if self._socket is None:
            return
        try:
            data = self._socket.recv(64)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if not data:
            self._drop_socket()
            return
        self._on_the_way = max(0, self._on_the_way - len(data))

    def _drop_socket(self) -> None:
        self._lose(len(self._waiting) + self._on_the_way)
        self._on_the_way = 0
        self._unsent = []
        connection, self._socket = self._socket, None
        if connection is not None:
            if self._is_reading:
                self._loop.remove_reader(connection.fileno())
            if self._is_writing:
                self._loop.remove_writer(connection.fileno())
            connection.close()
        self._is_writing = self._is_reading = False

    def _lose(self, count: int) -> None:
        self._waiting.clear()
        self._figures.mirror_lost(count)


class _Recorder:
    """Samples into `path + .part`, renamed to `path` when enough are there."""

    def __init__(self, path: str, samples: int, max_bytes: int, hello: Callable[[], Hello]) -> None:
        self.path = path
        self.is_open = True
        self._left = samples
        self._bytes_left = max_bytes
        self._fd = -1
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            self._fd = os.open(path + PART_SUFFIX, flags, 0o600)
            self._put([memoryview(part) for part in encode_hello(hello())])
        except OSError as error:
            _log.warning("inputs cannot be recorded for the shadow: %s", error)
            self.close()

    def write(self, sample: Sample) -> bool:
        """Append a sample; False when it is not wanted any more or does not fit."""
        parts = [memoryview(part) for part in encode_sample(sample)]
        size = sum(part.nbytes for part in parts)
        if size > self._bytes_left:
            self.finish()
            return False
        try:
            self._put(parts)
        except OSError as error:
            _log.warning("recording ended early: %s", error)
            self.finish()
            return False
        self._left -= 1
        self._bytes_left -= size
        if self._left <= 0:
            self.finish()
        return True

    def _put(self, parts: list[memoryview]) -> None:
        while parts:
            parts = _after(parts, os.writev(self._fd, parts[:16]))

    def finish(self) -> None:
        """Give the file its final name."""
        self.close()
        try:
            Path(self.path + PART_SUFFIX).replace(self.path)
        except OSError as error:
            _log.warning("recording cannot be finished: %s", error)

    def close(self) -> None:
        """Stop writing."""
        self.is_open = False
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _after(parts: list[memoryview], sent: int) -> list[memoryview]:
    """Return what is left of the parts after so many bytes."""
    for index, part in enumerate(parts):
        if sent < part.nbytes:
            return [part[sent:], *parts[index + 1 :]]
        sent -= part.nbytes
    return []
