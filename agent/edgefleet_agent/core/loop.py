"""agentd's main loop: one thread, one selector, timers. Everything that happens in agentd happens in a callback of this loop."""

import heapq
import itertools
import logging
import selectors
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType

from edgefleet_protocol.clock import Clock

Callback = Callable[[], None]

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Timer:
    """A callback that will run once. `cancel` may be called at any time."""

    due_s: float
    callback: Callback | None

    def cancel(self) -> None:
        """Let it not run."""
        self.callback = None


class Loop:
    """Descriptors, timers, and a wake-up for other threads and signal handlers."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._selector = selectors.DefaultSelector()
        self._timers: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()
        self._running = False
        self.stops_asked = 0
        self._wake_read, self._wake_write = socket.socketpair()
        self._wake_read.setblocking(False)
        self._wake_write.setblocking(False)
        self._on_wake: Callback = _nothing
        self._look: Callable[[], bool] = _nothing_changed
        self._selector.register(self._wake_read, selectors.EVENT_READ, self._woken)

    def monotonic_s(self) -> float:
        """Return the loop's time."""
        return self._clock.monotonic_s()

    def count_stops(self) -> None:
        """From now on SIGTERM and SIGINT only wake the loop and are counted in `stops_asked`."""
        signal.set_wakeup_fd(self._wake_write.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._asked_to_stop)

    def _asked_to_stop(self, _number: int, _frame: FrameType | None) -> None:
        self.stops_asked += 1

    def on_wake(self, callback: Callback) -> None:
        """Run `callback` in the loop whenever `wake` was called."""
        self._on_wake = callback

    def look_first(self, look: Callable[[], bool]) -> None:
        """Call `look` before each round of callbacks. True: it changed what is watched, so the round begins again."""
        self._look = look

    def wake(self) -> None:
        """Make the loop look around. Safe from any thread and from signal handlers."""
        try:
            self._wake_write.send(b"\0")
        except OSError:
            return  # full: the loop will wake anyway; closed: it has ended

    def watch(self, fd: int, callback: Callback) -> None:
        """Run `callback` whenever `fd` is readable."""
        self._selector.register(fd, selectors.EVENT_READ, callback)

    def watch_write(self, fd: int, on_read: Callback, on_write: Callback | None) -> None:
        """Also run `on_write` whenever `fd` takes bytes; None stops that."""
        if on_write is None:
            self._selector.modify(fd, selectors.EVENT_READ, on_read)
        else:
            self._selector.modify(fd, selectors.EVENT_READ | selectors.EVENT_WRITE, (on_read, on_write))

    def unwatch(self, fd: int) -> None:
        """Forget a descriptor; before it is closed."""
        try:
            self._selector.unregister(fd)
        except KeyError:
            return

    def call_later(self, delay_s: float, callback: Callback) -> Timer:
        """Run `callback` once after `delay_s`."""
        timer = Timer(self._clock.monotonic_s() + max(0.0, delay_s), callback)
        heapq.heappush(self._timers, (timer.due_s, next(self._order), timer))
        return timer

    def run(self) -> None:
        """Run until `stop`."""
        self._running = True
        while self._running:
            ready = self._selector.select(self._timeout_s())
            if self._look():
                continue
            for key, mask in ready:
                if isinstance(key.data, tuple):
                    on_read, on_write = key.data
                    if mask & selectors.EVENT_WRITE:
                        guarded(on_write)
                    if mask & selectors.EVENT_READ:
                        guarded(on_read)
                else:
                    guarded(key.data)
            self._run_timers()

    def stop(self) -> None:
        """End `run` after the callback at hand."""
        self._running = False

    def close(self) -> None:
        """Free the descriptors."""
        self._selector.close()
        self._wake_read.close()
        self._wake_write.close()

    def _woken(self) -> None:
        try:
            while self._wake_read.recv(4096):
                pass
        except BlockingIOError:
            pass
        self._on_wake()

    def _timeout_s(self) -> float | None:
        while self._timers and self._timers[0][2].callback is None:
            heapq.heappop(self._timers)
        if not self._timers:
            return None
        return max(0.0, self._timers[0][0] - self._clock.monotonic_s())

    def _run_timers(self) -> None:
        now = self._clock.monotonic_s()
        while self._timers and self._timers[0][0] <= now:
            timer = heapq.heappop(self._timers)[2]
            callback, timer.callback = timer.callback, None
            if callback is not None:
                guarded(callback)


def guarded(callback: Callback) -> None:
    """Run a callback of the outermost loop, or one of several acts in it: a full disk or a bug in one must not end what serves."""
    try:
        callback()
    except Exception:
        log.exception("callback failed")


def _nothing() -> None:
    return


def _nothing_changed() -> bool:
    return False
