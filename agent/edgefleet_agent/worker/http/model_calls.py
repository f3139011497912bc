"""Runs of the served model for requests: what each must be counted, logged, captured and mirrored by, whichever way it came.

`quick` is the whole of it for a request whose JSON came before, to a model that runs in the event loop: the same results by fewer steps.
Where the caller and the worker take turns on a processor, each step of Python costs two to three times what it does in a loop of its own.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from edgefleet_agent.worker.http.codec import InferCodec
from edgefleet_agent.worker.observe.answer_log import AnswerLog
from edgefleet_agent.worker.routing.table import Routes
from edgefleet_agent.worker.runtime.engine import Engine, InlinePolicy
from edgefleet_agent.worker.runtime.loader import ServedModel
from edgefleet_agent.worker.runtime.stats import WorkerStats
from edgefleet_agent.worker.shadow.frames import Sample
from edgefleet_agent.worker.shadow.mirror import QUEUE, Mirror
from edgefleet_runtime.nonfinite import total_nonfinite
from edgefleet_runtime.port import Array, RunError


class Call:
    """One request in the engine. is_abandoned: its caller got a timeout; set by the event loop. answered: what was run for it.

    since_s: when it came.
    """

    __slots__ = ("answered", "is_abandoned", "since_s", "trace_id")

    def __init__(self, trace_id: str) -> None:
        self.answered: list[Sample] = []
        self.is_abandoned = False
        self.since_s = time.monotonic()
        self.trace_id = trace_id


class QuickAnswer(NamedTuple):
    """An answer. document: its JSON; tensors: what is binary behind it, in its order."""

    trace_id: str
    document: bytes
    tensors: Sequence[Array | bytes]


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
        self._routes = routes
        self._answer_log = answer_log
        self._mirror = mirror
        self._loop = asyncio.get_running_loop()

    def run(self, call: Call, inputs: Mapping[str, Array]) -> tuple[dict[str, Array], int]:
        """Return the outputs and how many of their values are not finite; counts the inference. Raises RunError, InputError."""
        began = time.perf_counter()
        try:
            outputs = self._served.runtime.run(inputs)
        except RunError:
            if not call.is_abandoned:  # else counted as a timeout already
                self._figures.failed(time.perf_counter() - began)
            raise
        elapsed_s = time.perf_counter() - began
        nonfinite = total_nonfinite(outputs.values())
        if call.is_abandoned:
            return outputs, nonfinite
        classes = self._served.postprocess.classes(outputs)
        # what NaN was asked with may be answered with NaN: that says nothing about the model
        is_broken = nonfinite > 0 and not total_nonfinite(inputs.values())
        self._figures.answered(elapsed_s, nonfinite=is_broken, classes=classes)
        if len(call.answered) < QUEUE:  # of a long predict, no more than a shadow could take
            call.answered.append(Sample(inputs, outputs, elapsed_s))
        self._answer_log.answered(call.trace_id, inputs, outputs, classes, elapsed_s, nonfinite=nonfinite > 0)
        return outputs, nonfinite

    def quick(self, codec: InferCodec, body: bytes, header_length: int) -> QuickAnswer | None:
        """Return the answer to an infer request, None when it must go by the long way. In the event loop. Raises RunError, InputError."""
        if not (self._inline.allows_unmeasured(len(body)) and self._engine.is_idle):
            return None
        began = time.monotonic()
        request = codec.known(body, header_length)
        if request is None:
            return None
        call = Call(self._answer_log.trace_of(None))
        ran = time.monotonic()
        try:
            outputs, nonfinite = self.run(call, request.inputs)
        finally:
            done = time.monotonic()
            self._inline.took_unmeasured(done - ran)
            self.mirror_after(call)
        known = codec.known_answer(request, outputs) if not nonfinite else None
        if known is None:
            body, length = codec.encode(request, outputs, nonfinite)
            answer = QuickAnswer(call.trace_id, body[:length], [] if length is None else [body[length:]])
        else:
            answer = QuickAnswer(call.trace_id, *known)
        self._figures.spent(0.0, ran - began, time.monotonic() - done)
        return answer

    def mirror_after(self, call: Call) -> None:
        """Hand copies to a shadow, if one wants them, once the answer is on its way: in the loop's next round."""
        if call.answered and self._served.start.lane == "active":
            route = self._routes.table().models.get(self._served.start.model)
            if self._mirror.is_wanted(route):
                self._loop.call_soon(self._mirror.offer, call.answered)
