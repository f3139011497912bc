"""agentd's part of ground truth: hears the labels that workers read, looks for their answers in the prediction log, counts the pairs.

1. Labels wait JOIN_S, so that many are looked for at once. First the workers tell the answers that they hold; then the log is read,
   SLICE_S at a time, and seldom enough that reading takes at most a share 1 / REST of the time.
2. At most MAX_WAITING labels wait; more are counted as unmatched. A kill of agentd loses those that wait, and the counts of the open
   window; which answers had their label is kept (`feedback.ok`).
3. Task `feedback` {model, items, wide}: the model's worker reads the items as those of a caller, and the task ends when all are looked for:
   its reason says how they fared.
"""

import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec

from edgefleet_agent.core.durable import read_record, write_record
from edgefleet_agent.core.loop import Loop
from edgefleet_agent.errors import StateFileError
from edgefleet_agent.feedback.answer_search import AnswerSearch
from edgefleet_agent.feedback.label_counts import LabelCounts, Lane, Paired, Tally
from edgefleet_agent.install.records import TaskRequest
from edgefleet_agent.paths import StatePaths
from edgefleet_agent.serving.worker_process import Worker
from edgefleet_agent.worker.control.protocol import Label, Labels, ReadLabels, ToAgentd
from edgefleet_protocol.clock import Clock
from edgefleet_protocol.messages import Window

JOIN_S: Final = 1.0
SLICE_S: Final = 0.01
REST: Final = 20.0
MAX_WAITING: Final = 20_000
KEEP_EVERY_S: Final = 300.0
READ_S: Final = 60.0
"""A worker that does not read a task's labels in this time is not waited for."""
UNREAD: Final = "feedback.unread"
NO_MODEL: Final = "feedback.no_model"

log = logging.getLogger(__name__)


class FeedbackDeps(msgspec.Struct, frozen=True):
    """What the keeper needs of the rest of agentd. All are called in the loop.

    write_out: has all answers written to the log, then calls what it is given. worker_of: the model's worker that answers, if any.
    finish: a task is over, with state, code and reason. changed: what the status shows is another.
    """

    write_out: Callable[[Callable[[bool], None]], None]
    worker_of: Callable[[str], Worker | None]
    finish: Callable[[str, str, str, str], None]
    changed: Callable[[], None]


@dataclass(slots=True)
class _Waiting:
    """A label that waits. lane: of the worker that read it."""

    lane: Lane
    label: Label
    unit: float
    task: str


@dataclass(slots=True)
class _Task:
    """A task in progress. left: labels that are not looked for yet; None: not read yet.

    is_wide: other devices look for the same labels, too: those that are not found here may be there.
    """

    left: int | None = None
    tally: Tally = field(default_factory=Tally)
    refused: int = 0
    is_wide: bool = False


class FeedbackKeeper:
    """The ground truth of one device. Only in the loop's thread."""

    def __init__(self, loop: Loop, clock: Clock, paths: StatePaths, deps: FeedbackDeps) -> None:
        """Count nothing yet."""
        self._loop = loop
        self._clock = clock
        self._folder: Path = paths.predictions
        self._record = paths.feedback
        self._deps = deps
        self._counts = LabelCounts(self._known())
        self._waiting: list[_Waiting] = []
        self._looked_for: list[_Waiting] = []
        self._tasks: dict[str, _Task] = {}
        self._is_due = False
        self._rests_until_s = 0.0
        self._kept_s = clock.monotonic_s()

    def _known(self) -> Paired | None:
        try:
            return read_record(Paired, self._record)
        except (StateFileError, OSError) as error:
            log.warning("feedback record unreadable", extra={"reason": str(error)})
            return None

    def close(self) -> None:
        """Look for what waits without asking anybody, and keep which answers had their label. May be called again."""
        left = [*self._looked_for, *self._waiting]
        self._looked_for, self._waiting = [], []
        if left:
            search = self._search(left)
            for _ in search.steps():
                pass
            self._pair(search, left)
        self._keep()

    def _keep(self) -> None:
        self._kept_s = self._clock.monotonic_s()
        paired = self._counts.paired
        if not paired.hashes:
            return
        try:
            write_record(self._record, paired)
        except OSError as error:
            log.warning("feedback record not written", extra={"reason": str(error)})

    # ---- from workers

    def hear(self, worker: Worker, message: ToAgentd) -> bool:
        """Take labels; False for all others."""
        if not isinstance(message, Labels):
            return False
        lane = Lane(worker.model, worker.lane, worker.ref.sha256, worker.ref.version)
        task = self._tasks.get(message.task)
        if message.task and task is None:
            return True  # its time was over
        if task is not None:
            task.left, task.refused = sum(bool(one.key) for one in message.items), message.refused
        now_s = int(self._clock.now().timestamp())
        if task is not None and not task.left:
            self._end(message.task, task)
        for label in message.items:
            one = _Waiting(lane, label, message.unit, message.task)
            if not label.key:
                self._counts.figures(lane, label, now_s)
            elif len(self._waiting) >= MAX_WAITING:
                self._unmatched(one, 0)
            else:
                self._waiting.append(one)
        self._look_soon()
        return True

    def begin_task(self, request: TaskRequest) -> None:
        """Begin a task `feedback`; `FeedbackDeps.finish` is called when it is over."""
        model, items = str(request.args.get("model", "")), request.args.get("items")
        worker = self._deps.worker_of(model)
        if worker is None or not isinstance(items, list):
            self._deps.finish(request.id, "failed", NO_MODEL, f"no model {model[:63]!r} answers on this device")
            return
        self._tasks[request.id] = _Task(is_wide=request.args.get("wide") is True)
        worker.send(ReadLabels(task=request.id, body=json.dumps(items).encode()))
        self._loop.call_later(READ_S, lambda: self._unread(request.id))

    def _unread(self, task_id: str) -> None:
        task = self._tasks.get(task_id)
        if task is not None and task.left is None:
            del self._tasks[task_id]
            self._deps.finish(task_id, "failed", UNREAD, "the model's worker did not read the labels")

    # ---- pairing

    def _look_soon(self) -> None:
        if self._waiting and not self._is_due:
            self._is_due = True
            wait_s = max(JOIN_S, self._rests_until_s - self._clock.monotonic_s())
            self._loop.call_later(wait_s, lambda: self._deps.write_out(lambda _: self._look()))

    def _look(self) -> None:
        self._looked_for, self._waiting = self._waiting, []
        search = self._search(self._looked_for)
        self._go_on(search, search.steps(), self._looked_for, 0.0)

    def _search(self, waiting: list[_Waiting]) -> AnswerSearch:
        return AnswerSearch(self._folder, {(one.lane.model, one.label.key) for one in waiting})

    def _go_on(self, search: AnswerSearch, steps: Iterator[None], waiting: list[_Waiting], used_s: float) -> None:
        """Read a slice of the log, and the next one after what else is to be done."""
        began = self._clock.monotonic_s()
        for _ in steps if waiting is self._looked_for else ():  # `close` has looked for all
            spent_s = self._clock.monotonic_s() - began
            if spent_s >= SLICE_S:
                self._loop.call_later(0.0, partial(self._go_on, search, steps, waiting, used_s + spent_s))
                return
        used_s += self._clock.monotonic_s() - began
        if waiting is self._looked_for:
            self._pair(search, waiting)
            self._looked_for = []
        self._deps.changed()
        self._is_due = False
        self._rests_until_s = self._clock.monotonic_s() + REST * used_s
        if self._clock.monotonic_s() - self._kept_s >= KEEP_EVERY_S:
            self._keep()
        self._look_soon()

    def _pair(self, search: AnswerSearch, waiting: list[_Waiting]) -> None:
        for one in waiting:
            answer = search.found.get((one.lane.model, one.label.key))
            if answer is None:
                self._unmatched(one, search.oldest_s)
            else:
                self._fared(one, self._counts.pair(one.lane.model, one.label, answer, one.unit))

    def _unmatched(self, one: _Waiting, oldest_s: int) -> None:
        task = self._tasks.get(one.task)
        is_told = task is None or not task.is_wide
        self._fared(one, self._counts.unmatched(one.lane, one.label, oldest_s, is_told=is_told))

    def _fared(self, one: _Waiting, outcome: str) -> None:
        task = self._tasks.get(one.task)
        if task is None or task.left is None:
            return
        task.tally.add(outcome)
        task.left -= 1
        if not task.left:
            self._end(one.task, task)

    def _end(self, task_id: str, task: _Task) -> None:
        del self._tasks[task_id]
        counts = {**msgspec.structs.asdict(task.tally), "refused": task.refused}
        self._deps.finish(task_id, "done", "", " ".join(f"{name}={n}" for name, n in counts.items()))

    # ---- what others see

    def told(self, windows: list[Window], t0: int, length_s: int) -> list[Window]:
        """Return windows with what was counted since they were told last. t0: unix seconds."""
        return self._counts.told(windows, t0, length_s)

    def status(self) -> dict[str, Any]:
        """Return how feedback fared since agentd began, by model, for `edge-agent status`."""
        return {model: msgspec.structs.asdict(tally) for model, tally in sorted(self._counts.tallies.items())}
