"""agentd's part of batches: hears what schedule a version brings, starts a child when a run is due, keeps and tells what became of it.

1. What serves counts: a version on trial brings its schedule when it is promoted, one that is rolled back takes it along.
2. State is written before a run begins and after it has ended: a power cut repeats a run with the same planned time, and with it the
   same file of answers, but never leaves one out. While the disk takes no state, no run begins.
3. Of trouble the server hears once, then each hour at most, by model and kind.
"""

import json
import logging
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, tzinfo
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

from msgspec.structs import replace

from edgefleet_agent.batch_runs import rules
from edgefleet_agent.batch_runs.model import RunState
from edgefleet_agent.core.child_process import ChildProcess
from edgefleet_agent.core.durable import read_record, write_record
from edgefleet_agent.core.loop import Loop, Timer
from edgefleet_agent.errors import StateFileError
from edgefleet_agent.serving.worker_process import Worker
from edgefleet_agent.worker.control.protocol import KnownSchedule, Serving, ToAgentd
from edgefleet_protocol.clock import Clock
from edgefleet_protocol.errors import EdgefleetError
from edgefleet_protocol.messages import EventKind
from edgefleet_protocol.run_schedule import Schedule, plan_of, read_schedule

MODULE: Final = "edgefleet_agent.inputs.scheduled_run"
STATE: Final = ".state"
RUN_S: Final = 3_600.0
QUIET_S: Final = 3_600.0
BUSY: Final = 75
"""Status of a child that found another one at work."""
_NEWS: Final = {"missed": EventKind.RUN_MISSED, "late": EventKind.RUN_LATE, "failed": EventKind.RUN_FAILED}
_WORDS_BYTES: Final = 1_024

log = logging.getLogger(__name__)


class Tell(Protocol):
    """Who takes an event of a model."""

    def __call__(self, kind: EventKind, model: str, code: str, reason: str, detail: dict[str, Any]) -> None:
        """Put it into the outbox."""
        ...


class ChildOptions(NamedTuple):
    """command: how Python is started, empty: as it was here. socket: where models are asked."""

    command: Sequence[str]
    socket: Path


class BatchRuns:
    """The schedules of all models. Only in the loop's thread. folder: with a folder for each model."""

    def __init__(
        self,
        loop: Loop,
        clock: Clock,
        folder: Path,
        child: ChildOptions,
        tell: Tell,
        changed: Callable[[], None],
        show: Callable[[], None],
    ) -> None:
        """Take up what was known. changed: reports the state; show: writes the status."""
        self._loop = loop
        self._clock = clock
        self._folder = folder
        self._argv = [*(child.command or (sys.executable,)), "-m", MODULE, "--socket", str(child.socket)]
        self._tell = tell
        self._changed, self._show = changed, show
        self._reported_s = -QUIET_S
        self._began_s = clock.monotonic_s()
        self._told: dict[tuple[str, str], float] = {}
        self._models: dict[str, _Model] = {}
        for file in sorted(folder.glob(f"*/{STATE}")):
            self._take(file.parent.name, _known(file))

    def on_ready(self, worker: Worker) -> None:
        """A worker can answer."""

    def hear(self, worker: Worker, message: ToAgentd) -> bool:
        """Take the schedule of a version; False for all others, also for the word that it serves now."""
        if isinstance(message, KnownSchedule):
            worker.schedule = message.body
            return True
        if isinstance(message, Serving) and worker.candidate is None:
            self._follow(worker.model, worker.schedule)
        return False

    def tick(self, models: Collection[str]) -> None:
        """Begin what is due. models: those that are on this device; schedules of others are forgotten."""
        for name in self._models.keys() - models:
            self._follow(name, b"")
        now_s, real_s = self._clock.now().timestamp(), self._clock.monotonic_s() - self._began_s
        for name, one in self._models.items():
            if one.child is None:
                catch_up = one.schedule.missed == "once"
                found = rules.looked(one.plan, one.state, rules.Moment(now_s, real_s, one.began_s), catch_up=catch_up)
                one.is_waiting = found.is_waiting
                self._decided(name, one, found)

    def close(self) -> None:
        """End what runs: it is begun again with the next start."""
        for one in self._models.values():
            if one.child is not None:
                one.child.abandon()

    def status(self) -> dict[str, Any]:
        """Return by model what `edge-agent status` shows and the state says: times are planned ones in unix seconds."""
        return {name: one.figures() for name, one in self._models.items()}

    def facts(self) -> dict[str, Any]:
        """Return what a state says."""
        return {"schedules": self.status()} if self._models else {}

    def _follow(self, name: str, body: bytes) -> None:
        one = self._models.get(name)
        if body == (one.state.body if one is not None else b""):
            return
        if one is not None and one.child is not None:
            one.child.abandon()
        file = self._folder / name / STATE
        if not body:
            del self._models[name]
            file.unlink(missing_ok=True)
            return
        known = one.state if one is not None else RunState()
        self._take(name, replace(known, body=body, due_s=0, run_s=0, tries=0))
        self._changed()

    def _take(self, name: str, state: RunState | None) -> None:
        try:
            if state is not None:
                self._models[name] = one = _Model(state)
                for part in (one.schedule.output, one.schedule.input if "." not in one.schedule.input else "."):
                    (self._folder / name / part).mkdir(mode=0o700, parents=True, exist_ok=True)
        except (EdgefleetError, OSError) as error:  # a newer server's, say
            self._models.pop(name, None)
            log.warning("schedule unusable", extra={"model": name, "reason": str(error)})

    def _decided(self, name: str, one: "_Model", found: rules.Decision) -> None:
        before, one.state = one.state, found.state
        if replace(before, seen_s=0) != replace(found.state, seen_s=0):
            try:
                write_record(self._folder / name / STATE, found.state)
            except OSError as error:
                self._unwritten(name, str(error))
                if found.begin:  # what is not written is not begun; it is planned still
                    one.state = before
                    return
        if found.begin:
            self._begin(name, one)
        for word, n in found.news:
            self._news(name, one.state, word, n)

    def _unwritten(self, name: str, reason: str) -> None:
        now_s = self._clock.monotonic_s()
        if now_s - self._told.get((name, STATE), -QUIET_S) >= QUIET_S:
            self._told[name, STATE] = now_s
            log.warning("state of a schedule not written", extra={"model": name, "reason": reason})

    def _begin(self, name: str, one: "_Model") -> None:
        one.began_s = self._clock.monotonic_s() - self._began_s
        log.info("batch begins", extra={"model": name, "planned_s": one.state.run_s})
        where, said = self._folder / name, one.schedule
        argv = [*self._argv, "--model", name, "--planned", str(one.state.run_s), "--keep", str(said.keep)]
        argv += ["--input", str(where / said.input), "--folder", str(where / said.output)]
        try:
            one.child = ChildProcess(self._loop, argv, partial(self._ended, name, one), output_bytes=_WORDS_BYTES)
        except OSError as error:
            self._decided(name, one, rules.ended(one.state, "run.no_child", str(error)))
            return
        one.deadline = self._loop.call_later(RUN_S, one.child.kill)

    def _ended(self, name: str, one: "_Model", status: int, words: bytes) -> None:
        one.child = None
        if one.deadline is not None:
            one.deadline.cancel()
        if self._models.get(name) is not one:
            return
        if status == BUSY:  # not our failure: it is begun again
            one.state = replace(one.state, tries=0)
            return
        code, reason = _meaning(status, words)
        log.info("batch ended", extra={"model": name, "code": code, "reason": reason})
        self._decided(name, one, rules.ended(one.state, code, reason))
        if self._clock.monotonic_s() - self._reported_s >= QUIET_S:
            self._reported_s = self._clock.monotonic_s()
            self._changed()
        self._show()

    def _news(self, name: str, state: RunState, word: str, n: int) -> None:
        now_s = self._clock.monotonic_s()
        if now_s - self._told.get((name, word), -QUIET_S) < QUIET_S:
            return
        self._told[name, word] = now_s
        detail = {"n": n, "due_s": state.due_s, "ok_s": state.ok_s, word: getattr(state, word)}
        is_failed = word == "failed"
        reason = state.reason if is_failed else f"{n} planned run{'s' if n > 1 else ''} {word}"
        self._tell(_NEWS[word], name, state.code if is_failed else f"run.{word}", reason, detail)


class _Model:
    """The schedule of one model. Raises ScheduleError."""

    def __init__(self, state: RunState) -> None:
        self.state = state
        self.schedule: Schedule = read_schedule(state.body)
        place = zone(self.schedule.tz)
        self.is_other_zone = place is None
        self.plan = plan_of(self.schedule.every, place or UTC)
        self.child: ChildProcess | None = None
        self.began_s: float | None = None
        self.deadline: Timer | None = None
        self.is_waiting = False

    def figures(self) -> dict[str, Any]:
        """Return how it stands. state: ok, failed, running, or waiting for the clock; zone: one that this device does not know."""
        state, hidden = self.state, ("v", "body", "run_s", "tries", "seen_s")
        word = "running" if self.child else "waiting" if self.is_waiting else "failed" if state.code else "ok"
        found = {name: getattr(state, name) for name in state.__struct_fields__ if name not in hidden}
        found |= {"every": self.schedule.every, "state": word}
        return found | ({"zone": self.schedule.tz} if self.is_other_zone else {})


def zone(name: str) -> tzinfo | None:
    """Return a time zone, `device`: that of this device; None where it is not known here, and UTC counts. Reads the disk."""
    if name == "UTC":
        return UTC
    from zoneinfo import ZoneInfo

    try:
        if name != "device":
            return ZoneInfo(name)
        with Path("/etc/localtime").open("rb") as file:
            return ZoneInfo.from_file(file)
    except (OSError, ValueError, KeyError):
        return None


def _known(file: Path) -> RunState | None:
    try:
        return read_record(RunState, file)
    except StateFileError as error:  # the worker will say the schedule again
        log.warning("schedule unreadable", extra={"reason": error.message})
        return None


def _meaning(status: int, words: bytes) -> tuple[str, str]:
    """Return code and reason of what a child said, "" when all is well."""
    if status == 0:
        return "", ""
    try:
        found: Mapping[str, Any] = json.loads(words)
        return str(found["code"])[:64], str(found["reason"])
    except (ValueError, KeyError, TypeError):
        how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
        return "run.crash", f"the child that asks the model {how}"
