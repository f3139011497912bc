"""Runs of the served model for requests: what each must be counted, logged, captured and mirrored by, whichever way it came.

1. An answer goes out first. What it must be counted and logged by is put down (`Ran`), and done for many at once: `settle`, after MAX_NOTED
   answers or NOTED_BYTES, and before anybody reads figures, logs or captures. Where a caller and the worker take turns on a
   processor, each step of Python costs two to three times what it does in a loop of its own.
2. `run_now` is for a request whose JSON came before, to a quick model: it runs where the request was read, by the fewest steps.
3. The thread that runs the model has the engine's turn until its note is put down: notes are in the order of the runs.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Mapping
from typing import Literal, NamedTuple

from edgefleet_agent.worker.control.protocol import RoutesTable
from edgefleet_agent.worker.http.codec import InferCodec
from edgefleet_agent.worker.http.quick_answer import QuickAnswer
from edgefleet_agent.worker.http.wire import InferRequest
from edgefleet_agent.worker.observe.answer_log import AnswerLog
from edgefleet_agent.worker.observe.kept_log import NOBODY, Caller, Given
from edgefleet_agent.worker.routing.table import Routes
from edgefleet_agent.worker.runtime.engine import INLINE_LONG_CPU_MS, Engine, InlinePolicy
from edgefleet_agent.worker.runtime.loader import ServedModel
from edgefleet_agent.worker.runtime.stats import WorkerStats
from edgefleet_agent.worker.shadow.frames import Sample
from edgefleet_agent.worker.shadow.mirror import QUEUE, Mirror
from edgefleet_runtime.nonfinite import total_nonfinite
from edgefleet_runtime.port import Array, RunError

MAX_NOTED = 256
NOTED_BYTES = 4 * 1024 * 1024
_LONG_S = INLINE_LONG_CPU_MS / 1e3


class Call:
    """One request in the engine. is_abandoned: its caller got a timeout; set by the event loop. answered: what was run for it.

    since_s: when it came.
    """

    __slots__ = ("answered", "caller", "is_abandoned", "since_s", "trace_id")

    def __init__(self, trace_id: str, caller: Caller = NOBODY) -> None:
        self.answered: list[Sample] = []
        self.is_abandoned = False
        self.since_s = time.monotonic()
        self.caller = caller
        self.trace_id = trace_id


class Ran(NamedTuple):
    """A run. at_s: when it ended, `time.perf_counter`. nonfinite: how many values of its outputs are.

    captured: its inputs, None where nothing is captured. asked: the same, None where it takes no part in the signals.
    number: of the kept log, 0 where none is kept.
    """

    at_s: float
    run_s: float
    trace_id: str
    outputs: dict[str, Array]
    nonfinite: int
    is_broken: bool
    captured: Mapping[str, Array] | None
    asked: Mapping[str, Array] | None
    number: int = 0
    caller: Caller = NOBODY


class ModelCalls:
    """The runs of one served model."""

    def __init__(
        self,
        served: ServedModel,
        engine: Engine,
        inline: InlinePolicy,
        figures: WorkerStats,
        routes: Routes,
        answer_log: AnswerLog,
        mirror: Mirror,
    ) -> None:
        self._served = served
        self._engine = engine
        self._inline = inline
        self._figures = figures
        self._signals = figures.signals
        self._routes = routes
        self._answer_log = answer_log
        self._mirror = mirror
        self._loop = asyncio.get_running_loop()
        self._noted: deque[Ran] = deque()
        self._noted_bytes = 0
        self._settling = threading.Lock()
        self._table: RoutesTable | None = None
        self._mode: Literal["shadow", "split"] | None = None
        figures.settle = answer_log.settle = self.settle

    def run(self, call: Call, inputs: Mapping[str, Array]) -> tuple[dict[str, Array], int]:
        """Return the outputs and how many of their values are not finite; counts the run. With the turn. Raises RunError, InputError."""
        began = time.perf_counter()
        try:
            outputs = self._served.runtime.run(inputs)
        except RunError:
            if not call.is_abandoned:  # else counted as a timeout already
                run_s = time.perf_counter() - began
                self._figures.failed(run_s)
                self._answer_log.failed("error", call.trace_id, call.caller, run_s)
            raise
        ended = time.perf_counter()
        nonfinite = total_nonfinite(outputs.values())
        if call.is_abandoned:
            return outputs, nonfinite
        self._note(call.trace_id, inputs, outputs, nonfinite, ended - began, ended, call.caller)
        self.settle()
        if len(call.answered) < QUEUE:  # of a long predict, no more than a shadow could take
            call.answered.append(Sample(inputs, outputs, ended - began))
        return outputs, nonfinite

    def run_now(self, inputs: Mapping[str, Array], body_bytes: int) -> Ran | None:
        """Run a request of that size here and now, None when it must go by the long way. From any thread. Raises RunError, InputError.

        Afterwards the caller asks `is_full`, once its answer is on its way.
        """
        turn = self._engine.turn
        if not (self._inline.allows_unmeasured(body_bytes) and self._engine.is_idle and turn.acquire(False)):
            return None
        began = time.perf_counter()
        try:
            outputs = self._served.runtime.run(inputs)
            ended = time.perf_counter()
            run_s = ended - began
            nonfinite = total_nonfinite(outputs.values())
            ran = self._note(self._answer_log.new_trace(), inputs, outputs, nonfinite, run_s, ended)
        except RunError:
            run_s = time.perf_counter() - began
            self._figures.failed(run_s)
            self._answer_log.failed("error", self._answer_log.new_trace(), NOBODY, run_s)
            raise
        finally:
            turn.release()
        if run_s > _LONG_S:
            self._inline.took_unmeasured(run_s)
        return ran

    def quick(self, codec: InferCodec, body: bytes, header_length: int) -> QuickAnswer | None:
        """Return the answer to an infer request, None when it must go by the long way. In the event loop. Raises RunError, InputError."""
        came = time.perf_counter()
        request = codec.known(body, header_length)
        ran = self.run_now(request.inputs, len(body)) if request is not None else None
        if ran is None or request is None:
            return None
        if self.mode is not None or self._mirror.is_in_use:
            self.mirror_after([Sample(request.inputs, ran.outputs, ran.run_s)])
        answer = self.encoded(codec, request, ran)
        self.spent(ran, came)
        if self.is_full:
            self._loop.call_soon(self.settle)
        return answer

    def encoded(self, codec: InferCodec, request: InferRequest, ran: Ran) -> QuickAnswer:
        """Return the answer to a request that was run. From any thread."""
        known = codec.known_answer(request, ran.outputs) if not ran.nonfinite else None
        if known is not None:
            return QuickAnswer(ran.trace_id, *known)
        body, length = codec.encode(request, ran.outputs, ran.nonfinite)
        return QuickAnswer(ran.trace_id, body[:length], [] if length is None else [body[length:]])

    def spent(self, ran: Ran, came_s: float) -> None:
        """Count what a request of `run_now` took besides its run, now that it is answered. came_s: `time.perf_counter`. From any thread."""
        self._figures.spent(0.0, ran.at_s - ran.run_s - came_s, time.perf_counter() - ran.at_s)

    @property
    def mode(self) -> Literal["shadow", "split"] | None:
        """How a candidate takes part in what this worker answers; None when there is none."""
        start = self._served.start
        if start.lane != "active":
            return None
        table = self._routes.table()
        if table is not self._table:
            route = table.models.get(start.model)
            self._table, self._mode = table, None if route is None else route.mode
        return self._mode

    @property
    def is_full(self) -> bool:
        """Whether it is time to `settle`."""
        return len(self._noted) >= MAX_NOTED or self._noted_bytes >= NOTED_BYTES

    def _note(
        self,
        trace_id: str,
        inputs: Mapping[str, Array],
        outputs: dict[str, Array],
        nonfinite: int,
        run_s: float,
        at_s: float,
        caller: Caller = NOBODY,
    ) -> Ran:
        log = self._answer_log
        # what NaN was asked with may be answered with NaN: that says nothing about the model
        is_broken = nonfinite > 0 and not total_nonfinite(inputs.values())
        kept, number = log.kept, 0
        if kept is not None and kept.is_on:
            number = kept.number()
        captured = inputs if log.tap is not None or (number and kept is not None and kept.wants_inputs) else None
        asked, signals = None, self._signals
        if signals is not None and at_s >= signals.next_s:
            asked, signals.next_s = inputs, at_s + signals.pause_s
        ran = Ran(at_s, run_s, trace_id, outputs, nonfinite, is_broken, captured, asked, number, caller)
        self._noted.append(ran)
        for array in outputs.values():
            self._noted_bytes += array.nbytes
        if captured is not None or asked is not None:
            for array in inputs.values():
                self._noted_bytes += array.nbytes
        if not log.is_due:
            log.wake_if_read()
        return ran

    def settle(self) -> None:
        """Count and log what was noted. From any thread."""
        with self._settling:
            noted, self._noted_bytes = self._noted, 0
            for _ in range(len(noted)):
                one = noted.popleft()
                classes = self._served.postprocess.classes(one.outputs)
                self._figures.answered(one.run_s, nonfinite=one.is_broken, classes=classes)
                if one.asked is not None and self._signals is not None:
                    self._signals.noted(one.asked, one.outputs)
                self._answer_log.answered(
                    one.at_s, one.trace_id, one.captured, one.outputs, classes, one.run_s, nonfinite=one.nonfinite > 0
                )
                kept = self._answer_log.kept
                if one.number and kept is not None:
                    status = "nonfinite" if one.nonfinite else "ok"
                    given = Given(one.number, one.at_s, one.trace_id, status, one.run_s, one.caller)
                    kept.answered(given, one.captured, one.outputs, classes)

    def mirror_after(self, answered: list[Sample]) -> None:
        """Hand copies to a shadow, if one wants them, once the answer is on its way: in the loop's next round."""
        if answered and self._served.start.lane == "active":
            route = self._routes.table().models.get(self._served.start.model)
            if self._mirror.is_wanted(route):
                self._loop.call_soon(self._mirror.offer, answered)
