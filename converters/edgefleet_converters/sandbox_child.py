"""The nursery process and what runs in its grandchildren (see `sandbox`).

Reads one JSON request a line on stdin, forks, waits, writes one JSON report a line on the real stdout. Descriptor 1 is
moved away first, so that nothing a native library prints can be read as a report.
"""

import contextlib
import ctypes
import gc
import importlib
import json
import logging
import os
import resource
import select
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from edgefleet_protocol.errors import EdgefleetError

_LIBC = ctypes.CDLL(None)
Step = Callable[[dict[str, Any]], dict[str, Any]]

STEPS: Final[dict[str, str]] = {
    "find_source": "edgefleet_converters.source:find_step",
    "foreign_import": "edgefleet_converters.importers.import_step:import_step",
    "onnx_import": "edgefleet_converters.onnx.load:import_step",
    "onnx_open_lengths": "edgefleet_converters.onnx.open_lengths:lengths_step",
    "onnx_simplify": "edgefleet_converters.onnx.simplify:simplify_step",
    "onnx_prepare": "edgefleet_converters.onnx.prepare:prepare_step",
    "onnx_sensitivity": "edgefleet_converters.onnx.sensitivity:sensitivity_step",
    "onnx_candidate": "edgefleet_converters.onnx.quantize:candidate_step",
    "onnx_ort_format": "edgefleet_converters.onnx.ort_format:ort_format_step",
    "tflite_import": "edgefleet_converters.tflite.load:import_step",
    "tflite_sensitivity": "edgefleet_converters.tflite.quantize.sensitivity:sensitivity_step",
    "tflite_candidate": "edgefleet_converters.tflite.quantize.candidates:candidate_step",
    "tflite_compile": "edgefleet_converters.tflite.compile:compile_step",
    "count_work": "edgefleet_converters.cost.count_step:count_step",
    "probe_runtime": "edgefleet_converters.check.run_model:probe_step",
    "check_golden": "edgefleet_converters.check.golden_vectors:golden_step",
    "importance": "edgefleet_converters.importance.importance_step:importance_step",
    "run_model": "edgefleet_converters.check.run_model:run_step",
    "user_metric": "edgefleet_converters.check.user_metric:metric_step",
}
"""Step name -> `module:function`. No module here imports a runtime: a step does so itself, in its grandchild."""

PRELOAD: Final[dict[str, tuple[str, ...]]] = {"build": ("numpy", "onnx"), "run": ("numpy",)}


def main(kind: str) -> int:
    """Serve until stdin closes. kind: a key of PRELOAD."""
    _die_with_parent()
    reports = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    # onnxruntime's quantizer recommends its own pre-processing through the root logger; ours has run already.
    logging.getLogger().setLevel(logging.ERROR)
    for name in PRELOAD[kind]:
        importlib.import_module(name)
    for line in sys.stdin.buffer:
        request = json.loads(line)
        _prepare(request["step"])
        reports.write(json.dumps(_serve(request)).encode() + b"\n")
        reports.flush()
    return 0


def _prepare(step: str) -> None:
    """Import a step's module before the fork, so that a step which is done again finds it: a third of a small conversion was imports."""
    module = STEPS[step].partition(":")[0]
    if module not in sys.modules:
        with contextlib.suppress(Exception):  # the grandchild fails at the same import, and can say so
            importlib.import_module(module)
        gc.freeze()  # a search for cycles in a grandchild would copy the pages of everything that is shared with it


def _serve(request: dict[str, Any]) -> dict[str, Any]:
    """Fork one grandchild for `request`, wait for it within the wall limit, and say how it ended."""
    pid = os.fork()
    if pid == 0:
        _grandchild(request)
    with contextlib.suppress(OSError):
        os.setpgid(pid, pid)
    pidfd = os.pidfd_open(pid)
    try:
        ready, _, _ = select.select([pidfd], [], [], float(request["limits"]["wall_s"]))
    finally:
        os.close(pidfd)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        # The whole group: a step's own children must not outlive it, whether it ended in time or not.
        os.killpg(pid, signal.SIGKILL)
    _, status, usage = os.wait4(pid, 0)
    killed = os.WIFSIGNALED(status)
    over_answer = killed and os.WTERMSIG(status) == signal.SIGPROF
    over_cpu = over_answer or (killed and os.WTERMSIG(status) == signal.SIGXCPU)
    name = signal.Signals(os.WTERMSIG(status)).name if killed and ready else ""
    return {
        "timed_out": not ready or over_cpu,
        "over_cpu": over_cpu,
        "over_answer": over_answer,
        "signal": "" if over_cpu else name,
        "exit_code": os.WEXITSTATUS(status) if os.WIFEXITED(status) else -1,
        "peak_rss_bytes": usage.ru_maxrss * 1024,
        "cpu_s": usage.ru_utime + usage.ru_stime,
    }


def _grandchild(request: dict[str, Any]) -> None:
    """Run the step in this forked process and leave by `_exit`: no clean-up of the nursery's state may run here."""
    code = 0
    try:
        _die_with_parent()
        os.setpgid(0, 0)
        _close_inherited()
        _apply_limits(request["limits"])
        os.chdir(request["scratch"])
        answer = _answer(request)
        Path(request["answer"]).write_bytes(json.dumps(answer).encode())
    except BaseException:  # noqa: BLE001 - the outermost frame of this process
        traceback.print_exc()
        code = 70
    finally:
        sys.stderr.flush()
        os._exit(code)


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    module, _, function = STEPS[request["step"]].partition(":")
    try:
        step: Step = getattr(importlib.import_module(module), function)
        return {"value": step(request["args"])}
    except EdgefleetError as error:
        return {"error": {"code": error.code, "message": error.message, "next": error.next_step}}
    except MemoryError:
        return {"error": {"code": "convert.out_of_memory", "message": "", "next": "use a smaller model"}}
    except Exception as error:  # noqa: BLE001 - a foreign library may raise anything; the text goes to the report
        traceback.print_exc()
        text = " ".join(str(error).split())[:600] or type(error).__name__
        code = (
            "convert.out_of_memory" if "bad_alloc" in text or "bad allocation" in text else "convert.transform_failed"
        )
        message = f"{type(error).__name__}: {text}"
        cure = "the log of the conversion has the details"
        return {"error": {"code": code, "message": message, "next": cure, "foreign": True}}


def _die_with_parent() -> None:
    """Ask the kernel for SIGKILL when the parent is gone: a job that was killed must leave no model running.

    Linux only (prctl PR_SET_PDEATHSIG = 1); elsewhere the CPU limit ends a left-over step.
    """
    if sys.platform == "linux":
        _LIBC.prctl(1, signal.SIGKILL, 0, 0, 0)


def _close_inherited() -> None:
    """Detach from the nursery's pipes: a step that writes to them would break the protocol."""
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.closerange(3, 256)


def _apply_limits(limits: dict[str, Any]) -> None:
    wanted = {
        resource.RLIMIT_AS: int(limits["memory_bytes"]),
        resource.RLIMIT_CPU: int(limits["cpu_s"]),
        resource.RLIMIT_FSIZE: int(limits["file_bytes"]),
        resource.RLIMIT_NOFILE: int(limits["open_files"]),
        resource.RLIMIT_CORE: 0,
    }
    for kind, value in wanted.items():
        _, hard = resource.getrlimit(kind)
        # The job itself may already run under tighter limits; those cannot be raised and need not be.
        bound = value if hard == resource.RLIM_INFINITY else min(value, hard)
        # CPU time needs a gap: at the soft limit comes SIGXCPU, which tells a hang from a crash; at the hard one SIGKILL.
        ceiling = hard if kind == resource.RLIMIT_CPU else bound
        resource.setrlimit(kind, (bound, ceiling))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
