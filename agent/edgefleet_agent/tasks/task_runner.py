"""Does the tasks of the desired document: what is due says `rules`, the work is a child's (`diagnostics.task`), this starts and notes it.

1. `diag` and `logs` are a short child: it looks, packs, and sends the result over HTTPS. Exit 0 sent, 75 try again, else failed.
   `check` is one too; it sends nothing, how it ended is the answer.
2. `restart` is agentd's own: of one worker, or of agentd in its place (same process id), once what is in flight is finished.
3. Each step is reported as an event at once; the record on the disk comes first, so that a power cut repeats a report, never an act.
4. Tasks wait while an install or a trial is on its way: the device has one thing to do at a time. A check waits for an install
   only, since what is on trial is what it is mostly asked about.
5. Kinds that another part does (`TaskDeps.others`) run at the same time; that part calls `finish`. A restart begins them again.
"""

import json
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from edgefleet_agent.core.child_process import ChildProcess
from edgefleet_agent.core.durable import read_record, write_record
from edgefleet_agent.core.loop import Loop, Timer
from edgefleet_agent.errors import StateFileError
from edgefleet_agent.install.records import TaskRequest
from edgefleet_agent.paths import StatePaths
from edgefleet_agent.tasks.model import TaskDone, TasksDone
from edgefleet_agent.tasks.rules import CHECK, Begin, GiveUp, next_step, noted, retry_in_s
from edgefleet_protocol.clock import Clock

MODULE = "edgefleet_agent.diagnostics.task"
TRY_AGAIN = 75
"""EX_TEMPFAIL of sysexits.h."""
CHILD_S = 120.0
BUSY_S = 2.0
SOON_S = 0.5
"""Between the report of a restart and the restart."""
_MAX_WORDS = 2_000

Tell = Callable[[TaskRequest, str, str, str], None]
"""(task, state, code, reason) → an event for the server."""

log = logging.getLogger(__name__)


class TaskDeps(msgspec.Struct, frozen=True):
    """What the runner needs of the rest of agentd. All are called in the loop.

    tell: an event for the server. is_busy: an install or a trial is on its way; is_installing: an install is.
    restart_worker: of a model; False: none serves.
    others: by kind, what begins the tasks that another part does; it calls `TaskRunner.finish`.
    """

    tell: Tell
    is_busy: Callable[[], bool]
    is_installing: Callable[[], bool]
    restart_agent: Callable[[], None]
    restart_worker: Callable[[str], bool]
    others: Mapping[str, Callable[[TaskRequest], None]]


class TaskRunner:
    """The tasks of one device while agentd runs."""

    def __init__(self, loop: Loop, paths: StatePaths, clock: Clock, command: Sequence[str], deps: TaskDeps) -> None:
        self._loop = loop
        self._state = paths.root
        self._record = paths.tasks_done
        self._clock = clock
        self._command = tuple(command) or (sys.executable,)
        self._deps = deps
        self._tell = deps.tell
        self._tasks: list[TaskRequest] = []
        self._done = self._read()
        self._failures: dict[str, int] = {}
        self._timer: Timer | None = None
        self._deadline: Timer | None = None
        self._reported: set[str] = set()
        self._begun: dict[str, TaskRequest] = {}
        self._child: ChildProcess | None = None

    def finish(self, task_id: str, state: str = "done", code: str = "", reason: str = "") -> None:
        """A task that another part does is over."""
        task = self._begun.pop(task_id, None)
        if task is not None:
            self._over(task, state, code, reason)

    def apply(self, tasks: Sequence[TaskRequest]) -> None:
        """Take the tasks of a verified document."""
        self._tasks = list(tasks)
        self._look_in(0.0)

    def close(self) -> None:
        """Begin nothing any more; a running child ends, and its task is done again by the next run."""
        self._tasks = []
        if self._timer is not None:
            self._timer.cancel()
        if self._child is not None:
            self._child.abandon()
            self._forget_child()

    def _look_in(self, delay_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(delay_s, self._look)

    def _look(self) -> None:
        if self._child is not None:
            return
        now_s = int(self._clock.now().timestamp())
        step = next_step(self._tasks, self._done, now_s, self._deps.others, self._begun)
        if isinstance(step, GiveUp):
            self._over(step.task, step.state, step.code, step.reason)
        elif isinstance(step, Begin):
            self._first_word(step.task)
            if step.task.kind in self._deps.others:
                self._begun[step.task.id] = step.task
                self._deps.others[step.task.kind](step.task)
                self._look_in(0.0)
            elif self._deps.is_installing() if step.task.kind == CHECK else self._deps.is_busy():
                self._look_in(BUSY_S)
            else:
                self._begin(step.task)

    def _first_word(self, task: TaskRequest) -> None:
        if task.id not in self._reported:
            self._reported.add(task.id)
            self._tell(task, "accepted", "", "")

    def _begin(self, task: TaskRequest) -> None:
        log.info("task begins", extra={"task": task.id, "task_kind": task.kind})
        if task.kind == "restart":
            self._restart(task)
            return
        self._tell(task, "running", "", "")
        argv = [*self._command, "-m", MODULE, "--state", str(self._state), "--id", task.id, "--kind", task.kind]
        argv += ["--args", json.dumps(task.args)]
        try:
            child = ChildProcess(
                self._loop, argv, lambda code, words: self._ended(task, code, words), output_bytes=_MAX_WORDS
            )
        except OSError as error:
            self._again(task, "agent.no_child", str(error))
            return
        self._child = child
        self._deadline = self._loop.call_later(CHILD_S, child.kill)

    def _restart(self, task: TaskRequest) -> None:
        if task.args.get("what") == "worker":
            # noted before the act: a worker whose end takes the device down must not be ended again
            self._over(task, "done", "", "", look=False)
            if not self._deps.restart_worker(str(task.args["model"])):
                log.warning("task found no worker", extra={"task": task.id, "model": task.args["model"]})
            self._look_in(0.0)
            return
        self._over(task, "done", "", "", look=False)
        self._loop.call_later(SOON_S, self._deps.restart_agent)

    def _ended(self, task: TaskRequest, code: int, words: bytes) -> None:
        """The child is over. words: one short line, or nothing."""
        self._forget_child()
        error_code, reason = _meaning(words, code)
        if code == 0:
            self._over(task, "done", "", "")
        elif code == TRY_AGAIN:
            self._again(task, error_code, reason)
        else:
            self._over(task, "failed", error_code, reason)

    def _again(self, task: TaskRequest, code: str, reason: str) -> None:
        failures = self._failures[task.id] = self._failures.get(task.id, 0) + 1
        log.warning("task tried again later", extra={"task": task.id, "code": code, "reason": reason})
        self._tell(task, "running", code, reason)
        self._look_in(retry_in_s(failures))

    def _over(self, task: TaskRequest, state: str, code: str, reason: str, *, look: bool = True) -> None:
        entry = TaskDone(id=task.id, state=state, at_s=int(self._clock.now().timestamp()), code=code)
        record = noted(self._done, entry, self._tasks)
        try:
            write_record(self._record, record)
        except OSError as error:
            # a disk that takes nothing: begun again when it does, and never a restart without its note
            log.warning("task not noted", extra={"task": task.id, "reason": str(error)})
            if task.kind == "restart":
                self._look_in(retry_in_s(len(self._done.done) + 1))
                raise
        self._done = record
        self._failures.pop(task.id, None)
        self._tell(task, state, code, reason)
        if look:
            self._look_in(0.0)

    def _forget_child(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._child = None

    def _read(self) -> TasksDone:
        try:
            return read_record(TasksDone, self._record) or TasksDone()
        except (StateFileError, OSError) as error:
            log.warning("done tasks unreadable", extra={"reason": str(error)})
            return TasksDone()


def _meaning(words: bytes, exit_code: int) -> tuple[str, str]:
    """Return code and reason of what a child said."""
    try:
        found: dict[str, Any] = json.loads(words or b"{}")
        return str(found["code"])[:64], str(found["reason"])[:1000]
    except (ValueError, KeyError, TypeError):
        how = f"was killed by signal {-exit_code}" if exit_code < 0 else f"ended with status {exit_code}"
        return ("", "") if exit_code == 0 else ("task.crash", f"the child that does the task {how}")
