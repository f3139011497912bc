"""What a worker was asked and what it answered, counted as the signals of its reference (docs/explanation/drift.md).

1. `noted` is called by `settle` and only appends. Counting is done for many answers at once, in the event loop, a moment later or when
   somebody asks for figures: never while a caller waits.
2. A table's rows are all counted. Where figures of a whole picture or array must be made, an answer is noted PICTURES_A_S times a second
   at most, evenly over time; then outputs and confidence are those of the noted answers, too.
3. Without a reference in the bundle, the first LEARN_FROM answers become one, by the same code: their deciles are its bins. Pictures are
   not learned: what they show changes with the hour of the day. agentd keeps what was learned and gives it to the next worker.
4. Under more load than is counted in time, MAX_WAITING answers or WAITING_BYTES wait at most; the others are left out.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np

from edgefleet_agent.worker.control.protocol import LEARN_FROM, KnownReference, ToAgentd
from edgefleet_agent.worker.observe.baseline import Baseline, Floats
from edgefleet_agent.worker.runtime.loader import ServedModel
from edgefleet_protocol.drift.histogram import SignalSums, merged_windows, pack
from edgefleet_protocol.drift.reference import Reference, basis_of, read_reference, write_reference
from edgefleet_protocol.errors import EdgefleetError
from edgefleet_protocol.manifest import TensorSpec
from edgefleet_runtime.port import Array, is_batched
from edgefleet_runtime.privacy import uncounted
from edgefleet_runtime.signals import SignalPlan, counted, signal_plan, signal_values

COUNT_AT = 256
COUNT_BYTES = 2 * 1024 * 1024
MAX_WAITING = 16 * COUNT_AT
WAITING_BYTES = 4 * COUNT_BYTES
COUNT_DELAY_S = 0.02
PICTURES_A_S = 4.0
TOLD_BYTES = 64 * 1024
"""Of a reference with its parts of the day: a control packet holds some more."""

_log = logging.getLogger(__name__)
Answer = tuple[Mapping[str, Array], Mapping[str, Array]]


class SignalLog:
    """The signals of one worker since it was last asked. next_s: an answer before that is not to be noted, `time.perf_counter`."""

    def __init__(self, served: ServedModel, tell: Callable[[ToAgentd], None]) -> None:
        """Count by the bundle's reference, else by what was learned before, else learn. Call it in the event loop. tell: agentd."""
        self._loop = asyncio.get_running_loop()
        self._served = served
        self._tell = tell
        self._waiting: deque[Answer] = deque()
        self._waiting_bytes = 0
        self._is_due = False
        self._sums: list[SignalSums] = []
        self._plan: SignalPlan | None = None
        self._reader: Reader | None = None
        self._baseline: Baseline | None = None
        self.basis = b""
        self.next_s = 0.0
        self.pause_s = 0.0
        reference = _reference_of(served)
        if (reference is None or not self._follow(reference)) and served.start.lane == "active":
            runtime = served.runtime
            self._baseline = Baseline.of(runtime.inputs, runtime.outputs, served.postprocess, self._hidden)
            self._reader = Reader(served, self._baseline.plan) if self._baseline is not None else None

    @property
    def is_on(self) -> bool:
        """Whether there is anything to count."""
        return self._reader is not None

    @property
    def learning(self) -> int:
        """How many answers were learned from so far; 0 while none is to be."""
        return len(self._baseline) if self._baseline is not None else 0

    def _follow(self, reference: Reference) -> bool:
        """Count by a reference from now on; False when it is of another model."""
        served = self._served
        try:
            plan = signal_plan(reference, served.runtime.inputs, served.runtime.outputs, self._hidden(reference))
        except EdgefleetError as error:
            _log.warning("the drift reference cannot be used: %s", error.message)
            return False
        if not plan.width:
            return False
        self._plan, self._reader, self.basis = plan, Reader(self._served, plan), basis_of(reference)
        self.pause_s = 1 / PICTURES_A_S if any(group.form in ("picture", "array") for group in plan.groups) else 0.0
        if self._served.start.lane == "active":
            body = write_reference(reference)
            self._tell(
                KnownReference(body=body if len(body) < TOLD_BYTES else write_reference(_without_hours(reference)))
            )
        return True

    def _hidden(self, reference: Reference) -> frozenset[str]:
        served, names = self._served, [one.name for one in reference.features]
        return uncounted(served.privacy, served.preprocess, served.runtime.inputs, names)

    def noted(self, inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> None:
        """Note an answer. From any thread."""
        if len(self._waiting) >= MAX_WAITING or self._waiting_bytes >= WAITING_BYTES:
            return
        self._waiting.append((inputs, outputs))
        for array in inputs.values():
            self._waiting_bytes += array.nbytes
        if not self._is_due and (len(self._waiting) >= COUNT_AT or self._waiting_bytes >= COUNT_BYTES):
            self._is_due = True
            self._loop.call_soon_threadsafe(self._loop.call_later, COUNT_DELAY_S, self._count)

    def take(self) -> bytes:
        """Return the sums since the last call, packed, and begin again. In the event loop."""
        for _ in range(-(-len(self._waiting) // COUNT_AT)):  # more may come meanwhile
            self._count()
        sums, self._sums = self._sums, []
        return pack(sums)

    def _count(self) -> None:
        self._is_due = False
        answers = [self._waiting.popleft() for _ in range(min(len(self._waiting), COUNT_AT))]
        taken_bytes = sum(array.nbytes for inputs, _ in answers for array in inputs.values())
        self._waiting_bytes = self._waiting_bytes - taken_bytes if self._waiting else 0
        if not answers or self._reader is None:
            return
        for values in self._reader.values(answers):
            if self._plan is not None:
                fresh = counted(values, self._plan)
                self._sums = merged_windows([self._sums, fresh]) if self._sums else fresh
            elif self._baseline is not None:
                self._baseline.add(values)
        if self._baseline is not None and len(self._baseline) >= LEARN_FROM:
            learned, self._baseline = self._baseline.learned(), None
            self._follow(learned)


class Reader:
    """Makes the values of a plan from noted answers."""

    def __init__(self, served: ServedModel, plan: SignalPlan) -> None:
        """Read only what the plan needs."""
        names = {group.spec.name for group in plan.groups}
        self._plan = plan
        self._inputs = [spec for spec in served.runtime.inputs if spec.name in names]
        self._outputs = [spec for spec in served.runtime.outputs if spec.name in names]
        self._first = served.runtime.inputs[0]

    def values(self, answers: Sequence[Answer]) -> list[Floats]:
        """Return [samples, signals] of all answers, in one piece where their tensors have the same form."""
        try:
            return [self._values(answers)]
        except ValueError:  # dimensions that differ from answer to answer
            return [self._values([one]) for one in answers]

    def _values(self, answers: Sequence[Answer]) -> Floats:
        inputs = {spec.name: _joined(spec, [asked[spec.name] for asked, _ in answers]) for spec in self._inputs}
        if not inputs:  # only answers are watched: how many samples they are for, the inputs say
            inputs = {self._first.name: _joined(self._first, [asked[self._first.name] for asked, _ in answers])}
        outputs = {spec.name: _joined(spec, [answer[spec.name] for _, answer in answers]) for spec in self._outputs}
        return signal_values(inputs, outputs, self._plan)


def _without_hours(reference: Reference) -> Reference:
    """Return a reference of very many signals, small enough for a control packet."""
    return msgspec.structs.replace(
        reference,
        features=[msgspec.structs.replace(one, hours={}) for one in reference.features],
        outputs=[msgspec.structs.replace(one, hours={}) for one in reference.outputs],
    )


def _joined(spec: TensorSpec, arrays: Sequence[Array]) -> Array:
    """Return arrays of one tensor with samples on the first axis. Raises ValueError where they differ in form."""
    if not is_batched(spec):
        return np.stack(arrays)
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def _reference_of(served: ServedModel) -> Reference | None:
    """Return what is counted by: of the bundle, else learned by a worker before; None when there is none that can be read."""
    start = served.start
    try:
        if served.reference:
            return read_reference(served.reference)
        return read_reference(Path(start.reference_path).read_bytes()) if start.reference_path else None
    except FileNotFoundError:
        return None
    except (OSError, EdgefleetError) as error:
        _log.warning("the drift reference cannot be used: %s", error)
        return None
