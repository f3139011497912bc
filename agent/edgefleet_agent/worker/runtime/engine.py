"""Where a worker decodes, runs and encodes: one thread next to the event loop, or, for fast models, the loop itself.

1. One job at a time: runtimes are not re-entrant, and a device has no cores to spare; the `turn` is for that. A waiting job whose caller
   gave up is skipped.
2. A job that takes longer than its deadline is answered as a timeout; native code cannot be interrupted, so the thread stays
   busy until it returns, and agentd, which sees the timeouts, decides what to do with the process.
3. A hand-over to the thread and back costs several times a small model's run. `InlinePolicy` says when a job may run where its request was
   read instead: in the loop, or in the thread of a region of shared memory. Never while the thread works.
"""

import asyncio
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from edgefleet_protocol.errors import EdgefleetError

T = TypeVar("T")

MAX_WAITING = 256
INLINE_P50_MS = 2.0
INLINE_LONG_CPU_MS = 20.0
INLINE_LONG_MS = 200.0
INLINE_NEVER_CPU_MS = 200.0
INLINE_STRIKES = 3
INLINE_FORGET = 1_000
INLINE_BODY_BYTES = 256 * 1024


class BusyError(EdgefleetError):
    """Too many requests wait for the model."""

    code = "worker.busy"


class DeadlineError(EdgefleetError):
    """The inference did not finish in time."""

    code = "worker.deadline"


class Engine:
    """A thread that runs jobs in order and settles futures of the loop that made it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.turn = threading.Lock()
        self._jobs: queue.SimpleQueue[tuple[Callable[[], object], asyncio.Future[object]] | None] = queue.SimpleQueue()
        self._unsettled = 0
        self._thread = threading.Thread(target=self._work, name="inference", daemon=True)
        self._thread.start()

    def submit(self, job: Callable[[], T], deadline_s: float | None) -> "asyncio.Future[T]":
        """Return a future of `job()`; it fails with DeadlineError after deadline_s, or with what the job raises.

        Raises BusyError. Call it from the loop's thread.
        """
        if self._jobs.qsize() >= MAX_WAITING:
            raise BusyError(
                f"{MAX_WAITING} requests already wait for this model", next_step="send fewer requests at once"
            )
        future: asyncio.Future[T] = self._loop.create_future()
        if deadline_s is not None:
            timer = self._loop.call_later(deadline_s, _expire, future, deadline_s)
            future.add_done_callback(lambda _: timer.cancel())
        self._unsettled += 1
        self._jobs.put((job, future))  # type: ignore[arg-type]  # the queue is not generic in each job's result
        return future

    @property
    def is_idle(self) -> bool:
        """Say whether the thread has nothing to do; true until the loop's thread calls `submit`."""
        return self._unsettled == 0

    def stop(self) -> None:
        """End the thread after the jobs that already wait."""
        self._jobs.put(None)

    def _work(self) -> None:
        while (entry := self._jobs.get()) is not None:
            job, future = entry
            try:
                with self.turn:
                    result = None if future.done() else job()
            except Exception as e:  # noqa: BLE001 - outermost loop of this thread: the caller gets the error
                self._settle(future, None, e)
            else:
                self._settle(future, result, None)

    def _settle(self, future: "asyncio.Future[object]", result: object, error: Exception | None) -> None:
        try:
            self._loop.call_soon_threadsafe(self._set, future, result, error)
        except RuntimeError:
            return  # the loop is closed: nobody waits any more

    def _set(self, future: "asyncio.Future[object]", result: object, error: Exception | None) -> None:
        self._unsettled -= 1
        if future.done():
            return
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)


class InlinePolicy:
    """Whether an inference may run in the event loop.

    Only a model whose golden vectors took at most INLINE_P50_MS in the middle, only with a body that is quickly decoded, and never again
    once runs were too long: while one runs, the worker answers neither health nor agentd. Not the golden runs' p95: of eight runs that
    is the slowest, and says how busy the board was when the worker started.
    Too long is INLINE_LONG_CPU_MS of processor time, or INLINE_LONG_MS by the clock: on a busy board a quick model waits for its turn,
    and a thread waits no less. INLINE_STRIKES of those within INLINE_FORGET runs are enough, since a virtual machine counts what its
    host takes from it as processor time; one of INLINE_NEVER_CPU_MS is enough by itself.
    """

    def __init__(self, golden_p50_ms: float) -> None:
        self._allowed = golden_p50_ms <= INLINE_P50_MS
        self._strikes = 0
        self._runs = 0
        self._watched = 0

    def allows(self, body_bytes: int) -> bool:
        """Say whether a request of that size may run inline."""
        return self._allowed and body_bytes <= INLINE_BODY_BYTES

    def allows_unmeasured(self, body_bytes: int) -> bool:
        """Say whether a request of that size may run inline without a look at the processor's clock: while no run was long lately."""
        return self._allowed and self._watched == 0 and body_bytes <= INLINE_BODY_BYTES

    def took_unmeasured(self, elapsed_s: float) -> None:
        """Note how long one took by the clock. After a long one the next INLINE_FORGET are measured."""
        if elapsed_s * 1e3 > INLINE_LONG_CPU_MS:
            self._watched = INLINE_FORGET
            self.took(elapsed_s, 0.0)

    def took(self, elapsed_s: float, cpu_s: float) -> None:
        """Note how long one took, by the clock and of the processor."""
        self._runs += 1
        self._watched = max(0, self._watched - 1)
        if self._runs > INLINE_FORGET:
            self._runs = self._strikes = 0
        if cpu_s * 1e3 > INLINE_LONG_CPU_MS or elapsed_s * 1e3 > INLINE_LONG_MS:
            self._strikes += 1
            self._allowed = self._allowed and self._strikes < INLINE_STRIKES and cpu_s * 1e3 <= INLINE_NEVER_CPU_MS


def _expire(future: "asyncio.Future[Any]", deadline_s: float) -> None:
    if not future.done():
        future.set_exception(
            DeadlineError(f"the inference took longer than {deadline_s:g} s", next_step="send a smaller input")
        )
