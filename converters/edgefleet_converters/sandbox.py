"""Run one step of a conversion in an expendable process.

Rules of the machine:

* Model bytes are parsed and run only in a *grandchild*: a crash, a hang or a memory bomb costs one candidate, not the job.
* A *nursery* is a process with the needed libraries loaded, and the modules of the steps that were done so far. It forks one
  grandchild a step, so a step does not pay the import time again. The nursery itself never touches a model and never imports
  a runtime (a runtime's own threads do not survive a fork).
* A grandchild gets limits on address space, CPU seconds, file size, open files and core dumps, a wall-clock limit kept by
  the nursery, and its own process group, killed as a whole.
* A step gets JSON-able arguments and file paths, answers with one JSON object in a file, and prints to stderr only.
"""

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final

from edgefleet_converters import errors
from edgefleet_converters.search_budget import SearchBudget, SearchEndedError, counted_s

BUILD: Final = "build"
"""The nursery with numpy and onnx, for steps that change a graph."""
RUN: Final = "run"
"""The nursery with numpy alone, for steps that run a model: its memory figures are close to a device's worker."""


_LOOK_S: Final = 0.2
_BUSY: Final = 4.0
"""Times the wall-clock limit that running a model may take while it waits for a processor."""


@dataclass(frozen=True)
class Limits:
    """What one step may use. Sizes in bytes, times in seconds."""

    memory_bytes: int = 6 * 1024**3
    cpu_s: int = 300
    wall_s: float = 180.0
    file_bytes: int = 4 * 1024**3
    open_files: int = 256


@dataclass(frozen=True)
class StepOutcome:
    """How a step ended: its answer, and the peak memory of its process."""

    answer: dict[str, Any]
    peak_rss_bytes: int


class Nursery:
    """One preloaded process that forks grandchildren on request. Use as a context manager; not thread-safe."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._process: subprocess.Popen[bytes] | None = None
        self.spent_s = 0.0
        self.peak_rss_bytes = 0

    def run(
        self, step: str, args: Mapping[str, Any], *, limits: Limits, what: str, budget: SearchBudget | None = None
    ) -> StepOutcome:
        """Run `step` (a name in `sandbox_child.STEPS`) and return its answer. Blocks.

        what: names the work in error messages ("loading the model in onnxruntime"). budget: of a search that the step ends with.
        Raises the step's own error again, or CrashedError, TimedOutError, OutOfMemoryError, StepKilledError, SearchEndedError.
        """
        process = self._started()
        started_s = time.monotonic()
        assert process.stdin is not None
        assert process.stdout is not None
        with tempfile.TemporaryDirectory(prefix="ef-step-") as scratch:
            answer_path = Path(scratch) / "answer.json"
            request = {
                "step": step,
                "args": dict(args),
                "limits": asdict(limits),
                "answer": str(answer_path),
                "scratch": scratch,
            }
            try:
                process.stdin.write(json.dumps(request).encode() + b"\n")
                process.stdin.flush()
                self._await(process, budget)
                line = process.stdout.readline()
            except BrokenPipeError:
                line = b""
            if not line:
                code = _exit_code(process)
                self.close()
                if code == -signal.SIGKILL:
                    raise _killed(what)
                raise errors.CrashedError(
                    f"the converter's helper process died while {what}",
                    next_step="run the conversion again; look at the log",
                )
            report = json.loads(line)
            answer = json.loads(answer_path.read_bytes()) if answer_path.exists() else {}
        self.spent_s += counted_s(time.monotonic() - started_s, report["cpu_s"])
        self.peak_rss_bytes = max(self.peak_rss_bytes, report["peak_rss_bytes"])
        if budget is not None and report["timed_out"] and not report["over_answer"] and budget.ended():
            raise SearchEndedError(what)
        return _outcome(report, answer, limits=limits, what=what)

    def _await(self, process: "subprocess.Popen[bytes]", budget: SearchBudget | None) -> None:
        """Wait until the step has ended. Raises SearchEndedError when its search is asked to end first."""
        if budget is None:
            return
        assert process.stdout is not None
        while not select.select([process.stdout], [], [], _LOOK_S)[0]:
            if budget.is_asked():
                process.kill()  # the step goes with it
                process.wait()
                self.close()
                raise SearchEndedError

    def _started(self) -> "subprocess.Popen[bytes]":
        if self._process is None or self._process.poll() is not None:
            self._process = start_nursery(self._kind)
        return self._process

    def close(self) -> None:
        """End the nursery; it has no running grandchild between calls."""
        process, self._process = self._process, None
        if process is not None:
            end_nursery(process)


def start_nursery(kind: str) -> "subprocess.Popen[bytes]":
    """Start the process of a nursery: BUILD or RUN."""
    environment = dict(os.environ)
    # One thread per native library before the fork: an idle BLAS pool would be lost in the grandchild.
    environment.update(OPENBLAS_NUM_THREADS="1", OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", PYTHONHASHSEED="0")
    # Nothing is imported from the working folder when the job itself may not (python -P).
    safe_path = ["-P"] if sys.flags.safe_path else []
    return subprocess.Popen(
        [sys.executable, *safe_path, "-m", "edgefleet_converters.sandbox_child", kind],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
    )


def end_nursery(process: "subprocess.Popen[bytes]") -> None:
    """End the process of a nursery that runs no step, or is ending. Blocks."""
    for pipe in (process.stdin, process.stdout):
        _close_quietly(pipe)
    try:
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class Sandbox:
    """The two nurseries of one job. Context manager."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self._nurseries = {kind: Nursery(kind) for kind in (BUILD, RUN)}
        self._budget: SearchBudget | None = None

    @property
    def spent_s(self) -> float:
        """Seconds of all steps so far, or their processor time where that is less."""
        return sum(nursery.spent_s for nursery in self._nurseries.values())

    @property
    def peak_rss_bytes(self) -> int:
        """Peak memory of the largest step so far."""
        return max(nursery.peak_rss_bytes for nursery in self._nurseries.values())

    @contextmanager
    def ending_with(self, budget: SearchBudget | None) -> Iterator[None]:
        """Let the steps inside end with a search; None = they take what they need."""
        before, self._budget = self._budget, budget
        try:
            yield
        finally:
            self._budget = before

    def __enter__(self) -> "Sandbox":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for nursery in self._nurseries.values():
            nursery.close()

    def build(
        self, step: str, args: Mapping[str, Any], *, what: str, cpu_s: int | None = None, patience: float = 1.0
    ) -> StepOutcome:
        """Run a step that reads or changes a graph.

        cpu_s: less processor time than usual, with a wall time to match. patience: times the usual limits on seconds.
        """
        limits = replace(self.limits, cpu_s=int(self.limits.cpu_s * patience), wall_s=self.limits.wall_s * patience)
        if cpu_s is not None:
            # Processor time, because a busy machine must not make a sound file a slow one.
            limits = replace(limits, cpu_s=min(cpu_s, limits.cpu_s), wall_s=min(10.0 * cpu_s, limits.wall_s))
        return self._run(BUILD, step, args, limits, what)

    def execute(self, step: str, args: Mapping[str, Any], *, what: str) -> StepOutcome:
        """Run a step that loads a model in a runtime.

        Processor time decides: on a busy machine a sound model takes many times its seconds.
        """
        cpu_s = min(self.limits.cpu_s, int(self.limits.wall_s))
        limits = replace(self.limits, cpu_s=cpu_s, wall_s=_BUSY * self.limits.wall_s)
        return self._run(RUN, step, args, limits, what)

    def _run(self, kind: str, step: str, args: Mapping[str, Any], limits: Limits, what: str) -> StepOutcome:
        budget = self._budget
        if budget is not None:
            cpu_s, wall_s = budget.step_limits()
            limits = replace(limits, cpu_s=min(cpu_s, limits.cpu_s), wall_s=min(wall_s, limits.wall_s))
        return self._nurseries[kind].run(step, args, limits=limits, what=what, budget=budget)


def _close_quietly(pipe: IO[bytes] | None) -> None:
    if pipe is not None:
        try:
            pipe.close()
        except BrokenPipeError:
            return


def _exit_code(process: "subprocess.Popen[bytes]") -> int | None:
    """Return how a process ended that closed its pipe, None when it lives on."""
    try:
        return process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        return None


def _killed(what: str) -> errors.StepKilledError:
    return errors.StepKilledError(
        f"the system ended the process that was {what} (SIGKILL), most likely because memory ran out",
        next_step="see the system's log; give the machine more memory or fewer conversions at a time, then try again",
    )


def _outcome(report: dict[str, Any], answer: dict[str, Any], *, limits: Limits, what: str) -> StepOutcome:
    """Turn the nursery's report and the step's answer into a result or the matching error."""
    if report["timed_out"]:
        allowed = f"{limits.cpu_s} s of processor time" if report["over_cpu"] else f"{limits.wall_s:.0f} s"
        if report["over_answer"]:
            allowed = "the processor time that one answer may take"
        raise errors.TimedOutError(
            f"{what} did not end within {allowed}",
            next_step="make the model smaller, or check that it has no endless loop",
        )
    if report["signal"] == "SIGKILL":
        raise _killed(what)
    if report["signal"]:
        raise errors.CrashedError(
            f"{what} killed its process ({report['signal']})",
            next_step="export the model again with current tools; a device would crash in the same way",
        )
    error = answer.get("error")
    if error:
        if error["code"] == errors.OutOfMemoryError.code:
            raise errors.OutOfMemoryError(
                f"{what} needs more than {limits.memory_bytes // 2**20} MiB of memory", next_step=error["next"]
            )
        kind = errors.BY_CODE.get(error["code"], errors.TransformError)
        message = f"{what} failed: {error['message']}" if error.get("foreign") else error["message"]
        raise kind(message, next_step=error["next"])
    if report["exit_code"] != 0 or "value" not in answer:
        raise errors.CrashedError(
            f"{what} ended its process with exit code {report['exit_code']} and no answer",
            next_step="export the model again with current tools; a device would crash in the same way",
        )
    return StepOutcome(answer=answer["value"], peak_rss_bytes=report["peak_rss_bytes"])
