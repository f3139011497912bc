"""Counters of one worker: what it answered, how long that took, what came out.

Written by the engine thread and the event loop, read by the event loop; one lock, held for microseconds. What an answered request took is
only put down when it ends, and counted together with others: that is most of what counting would add to a small model's answer.
"""

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from edgefleet_agent.reporting.collector import rss_bytes
from edgefleet_agent.worker.control.protocol import Stats
from edgefleet_protocol.comparison import ShadowFigures
from edgefleet_protocol.sketch import LatencySketch

MAX_CLASSES = 4096
MAX_NOTED = 256


@dataclass
class _Counts:
    n: int = 0
    errors: int = 0
    timeouts: int = 0
    bad_requests: int = 0
    nonfinite: int = 0
    forwarded: int = 0
    mirrored: int = 0
    mirror_dropped: int = 0
    sketch: LatencySketch = field(default_factory=LatencySketch)
    classes: dict[int, int] = field(default_factory=dict)

    def add(self, other: "_Counts") -> None:
        """Add what answers were; classes and mirrors are left out."""
        for name in ("n", "errors", "timeouts", "bad_requests", "nonfinite"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.sketch.merge(other.sketch)


@dataclass(frozen=True)
class Answers:
    """What a worker answered since it started. latency: packed; run_s: time inside the runtime."""

    n: int
    errors: int
    timeouts: int
    bad_requests: int
    nonfinite: int
    latency: list[int]
    run_s: float


@dataclass(frozen=True)
class Totals:
    """Sums since the worker started, for the statistics endpoint.

    run_s: time inside the runtime. queue_s, input_s, output_s: waiting, decoding, encoding. last_s: monotonic, of the last answer.
    """

    n: int
    errors: int
    run_s: float
    fail_s: float
    queue_s: float = 0.0
    input_s: float = 0.0
    output_s: float = 0.0
    last_s: float | None = None


class Signals(Protocol):
    """What else is counted of answers."""

    basis: bytes
    next_s: float
    pause_s: float

    @property
    def learning(self) -> int:
        """As in `Stats`."""
        ...

    def noted(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> None:
        """Note an answer: arrays by name."""
        ...

    def take(self) -> bytes:
        """Return the sums since the last call, packed."""
        ...


class WorkerStats:
    """Counts since the last `take`, and totals. signals: None while none are counted."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._delta = _Counts()
        self._taken = _Counts()
        # deques: one thread may append while another takes from the front
        self._answered: deque[tuple[float, bool, tuple[int, ...]]] = deque()
        self._spent: deque[tuple[float, float, float, float]] = deque(maxlen=8 * MAX_NOTED)
        self._n = 0
        self._errors = 0
        self._run_s = 0.0
        self._fail_s = 0.0
        self.shadow: Callable[[], ShadowFigures] | None = None
        self.signals: Signals | None = None
        self.settle: Callable[[], None] = lambda: None
        """Called before figures are read: counts the answers that were put down elsewhere."""
        self._queue_s = 0.0
        self._input_s = 0.0
        self._output_s = 0.0
        self._last_s: float | None = None

    def answered(self, run_s: float, *, nonfinite: bool, classes: Iterable[int]) -> None:
        """Count one inference that got an answer. run_s: seconds inside the runtime."""
        self._answered.append((run_s, nonfinite, tuple(classes)))
        if len(self._answered) >= MAX_NOTED:
            with self._lock:
                self._count()

    def _count(self) -> None:
        """Count what was put down. With the lock."""
        delta, answered, spent = self._delta, self._answered, self._spent
        while answered:
            run_s, nonfinite, classes = answered.popleft()
            delta.n += 1
            delta.sketch.add(run_s)
            delta.nonfinite += nonfinite
            for index in classes:
                if 0 <= index < MAX_CLASSES:
                    delta.classes[index] = delta.classes.get(index, 0) + 1
            self._n += 1
            self._run_s += run_s
        while spent:
            queue_s, input_s, output_s, self._last_s = spent.popleft()
            self._queue_s += queue_s
            self._input_s += input_s
            self._output_s += output_s

    def spent(self, queue_s: float, input_s: float, output_s: float) -> None:
        """Note where else the time of one answered request went."""
        self._spent.append((queue_s, input_s, output_s, time.monotonic()))

    def failed(self, run_s: float = 0.0) -> None:
        """Count one inference that the runtime or the worker failed."""
        with self._lock:
            self._fail(run_s)

    def timed_out(self) -> None:
        """Count one inference that was not done in time; it is an error too."""
        with self._lock:
            self._delta.timeouts += 1
            self._fail(0.0)

    def _fail(self, run_s: float) -> None:
        """Count a failure. With the lock."""
        self._delta.n += 1
        self._delta.errors += 1
        self._n += 1
        self._errors += 1
        self._fail_s += run_s

    def refused(self) -> None:
        """Count one request whose inputs do not fit."""
        with self._lock:
            self._delta.bad_requests += 1

    def passed_on(self) -> None:
        """Count one request that another worker answered."""
        with self._lock:
            self._delta.forwarded += 1

    def mirrored(self, *, dropped: bool) -> None:
        """Count one input that was had for a shadow, and whether there was no room for it."""
        with self._lock:
            self._delta.mirrored += 1
            self._delta.mirror_dropped += dropped

    def mirror_lost(self, count: int) -> None:
        """Count inputs that waited for a shadow which went away."""
        with self._lock:
            self._delta.mirror_dropped += count

    def totals(self) -> Totals:
        """Return the sums since start."""
        self.settle()
        with self._lock:
            self._count()
            return Totals(
                self._n,
                self._errors,
                self._run_s,
                self._fail_s,
                self._queue_s,
                self._input_s,
                self._output_s,
                self._last_s,
            )

    def since_start(self) -> Answers:
        """Return what was answered since start, taken or not."""
        self.settle()
        whole = _Counts()
        with self._lock:
            self._count()
            whole.add(self._taken)
            whole.add(self._delta)
            run_s = self._run_s
        counts = (whole.n, whole.errors, whole.timeouts, whole.bad_requests, whole.nonfinite)
        return Answers(*counts, whole.sketch.packed(), run_s)

    def take(self) -> Stats:
        """Return the counts since the last call and begin again."""
        self.settle()
        with self._lock:
            self._count()
            taken, self._delta = self._delta, _Counts()
            self._taken.add(taken)
        top = max(taken.classes, default=-1)
        signals = self.signals
        sums = signals.take() if signals is not None else b""
        return Stats(
            n=taken.n,
            errors=taken.errors,
            timeouts=taken.timeouts,
            bad_requests=taken.bad_requests,
            nonfinite=taken.nonfinite,
            forwarded=taken.forwarded,
            latency=taken.sketch.packed(),
            classes=[taken.classes.get(i, 0) for i in range(top + 1)],
            rss_bytes=rss_bytes(os.getpid()),
            cpu_s=time.process_time(),
            mirrored=taken.mirrored,
            mirror_dropped=taken.mirror_dropped,
            shadow=self.shadow() if self.shadow is not None else None,
            basis=signals.basis if signals is not None and sums else b"",
            signals=sums,
            learning=signals.learning if signals is not None else 0,
        )


def peak_rss_bytes() -> int:
    """Return the largest resident size of this process, 0 where /proc does not say.

    VmHWM and not ru_maxrss, which a process inherits from its parent.
    """
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return 0
