"""The scoreboard: onnx's own backend tests through our compiler and a real TFLite runtime, each in a process of its own.

Usable are the tests whose inputs and outputs are all tensors of types that numpy has itself. A test passes only when inputs and
outputs keep order, names, shapes and types, and each value is within the tolerance.
"""

from __future__ import annotations

import json
import os
import select
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from edgefleet_converters.errors import UnsupportedOperatorError
from edgefleet_converters.tflite.compile import compile_model
from edgefleet_converters.tflite.ir import Graph
from edgefleet_converters.tflite.runtimes import RUNTIMES, TfliteRuntime
from edgefleet_protocol.errors import EdgefleetError
from edgefleet_runtime.port import load

Array = npt.NDArray[Any]

KINDS: Final = ("node", "simple", "pytorch-converted", "pytorch-operator")
ATOL: Final = 1e-4
TIME_LIMIT_S: Final = 120.0
OUTCOMES: Final = ("pass", "refused", "failed", "wrong", "aborted")
"""refused: the runtime itself lacks an operator or type. failed: anything else without an answer."""
_USABLE: Final = {
    getattr(onnx.TensorProto, name)
    for name in ("FLOAT", "DOUBLE", "FLOAT16", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64", "BOOL",
                 "COMPLEX64", "COMPLEX128")
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One test of onnx. sets: (inputs, outputs) in the graph's order. rtol, atol: its own tolerances."""

    kind: str
    name: str
    model: onnx.ModelProto
    sets: Sequence[tuple[Sequence[Any], Sequence[Any]]]
    rtol: float
    atol: float


@dataclass(frozen=True)
class Result:
    """What became of one case on one runtime."""

    kind: str
    name: str
    runtime: str
    outcome: str
    detail: str = ""


def load_cases(shard: tuple[int, int] = (1, 1)) -> list[Case]:
    """Return the usable cases of shard I of N, by their sorted names. Takes about 20 seconds."""
    from onnx.backend.test.loader import load_model_tests

    cases = []
    for kind in KINDS:
        for test in sorted(load_model_tests(kind=kind), key=lambda t: str(t.name)):
            model = test.model if test.model is not None else onnx.load(Path(test.model_dir) / "model.onnx")
            if _usable(model):
                sets = test.data_sets if test.data_sets is not None else _stored_sets(Path(test.model_dir))
                cases.append(Case(kind, test.name, model, sets, test.rtol, test.atol))
    return cases[shard[0] - 1 :: shard[1]]


def _usable(model: onnx.ModelProto) -> bool:
    values = [*model.graph.input, *model.graph.output]
    return all(v.type.HasField("tensor_type") and v.type.tensor_type.elem_type in _USABLE for v in values)


def _array(value: Any) -> Array:
    return numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else np.asarray(value)


def _stored_sets(folder: Path) -> list[tuple[list[Array], list[Array]]]:
    return [(_stored(data, "input"), _stored(data, "output")) for data in sorted(folder.glob("test_data_set_*"))]


def _stored(folder: Path, kind: str) -> list[Array]:
    count = len(list(folder.glob(f"{kind}_*.pb")))
    return [
        numpy_helper.to_array(onnx.load_tensor_from_string((folder / f"{kind}_{i}.pb").read_bytes()))
        for i in range(count)
    ]


def named_twice(graph: Graph) -> list[str]:
    """Return the names that several tensors have. Other tools, and an engineer who reads the file, tell tensors by name."""
    tensors = {id(t): t for op in graph.ops for t in (*op.inputs, *op.outputs) if t is not None}
    names = Counter(tensor.name for tensor in tensors.values())
    return sorted(name for name, times in names.items() if times > 1)


def judge(case: Case, runtime: TfliteRuntime) -> tuple[str, str]:
    """Compile and run a case in this process. Returns (outcome, detail)."""
    try:
        compiled = compile_model(case.model, runtime)
    except UnsupportedOperatorError as error:
        return "refused", error.message
    except EdgefleetError as error:
        return "failed", error.message
    except Exception as error:  # noqa: BLE001 - any crash of the compiler is a failure of the case
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        where = f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}" if trace is not None else ""
        return "failed", f"{type(error).__name__} at {where}: {error}"
    if twice := named_twice(compiled.graph):
        return "failed", f"tensors of one name: {twice}"
    try:
        model = load(runtime.adapter, compiled.data)
    except EdgefleetError as error:
        return "failed", f"load: {error.message}"
    names = [v.name for v in case.model.graph.input if v.name not in {t.name for t in case.model.graph.initializer}]
    if [spec.name for spec in model.inputs] != names:
        return "wrong", f"inputs {[spec.name for spec in model.inputs]} instead of {names}"
    if [spec.name for spec in model.outputs] != [v.name for v in case.model.graph.output]:
        return "wrong", f"outputs {[spec.name for spec in model.outputs]}"
    for inputs, outputs in case.sets:
        try:
            got = list(model.run(dict(zip(names, (_array(a) for a in inputs), strict=True))).values())
        except EdgefleetError as error:
            return "failed", f"run: {error.message}"
        problem = _difference(case, got, [_array(a) for a in outputs])
        if problem:
            return "wrong", problem
    return "pass", ""


def _difference(case: Case, got: Sequence[Array], wanted: Sequence[Array]) -> str:
    for index, (a, b) in enumerate(zip(got, wanted, strict=True)):
        if a.dtype != b.dtype or a.shape != b.shape:
            return f"output {index} is {a.dtype}{list(a.shape)}, not {b.dtype}{list(b.shape)}"
        if a.dtype.kind in "fc":
            close = np.isclose(a, b, rtol=case.rtol, atol=max(case.atol, ATOL), equal_nan=True)
            if not close.all():
                return f"output {index} differs at {int((~close).sum())} of {close.size}: {a[~close][:3]} for {b[~close][:3]}"
        elif not np.array_equal(a, b):
            return f"output {index} differs: {a.reshape(-1)[:6]} for {b.reshape(-1)[:6]}"
    return ""


def passing_lines(results: Sequence[Result]) -> str:
    """Return one line a passing test: its name, and the runtime where only one of several passes."""
    runtimes = {result.runtime for result in results}
    by_name: dict[str, set[str]] = {}
    for result in results:
        if result.outcome == "pass":
            by_name.setdefault(result.name, set()).add(result.runtime)
    lines = [
        name if by_name[name] == runtimes else f"{name} {','.join(sorted(by_name[name]))}" for name in sorted(by_name)
    ]
    return "".join(line + "\n" for line in lines)


def read_passing(text: str, runtimes: Sequence[str]) -> dict[str, set[str]]:
    """Return runtime -> passing names of what `passing_lines` wrote for these runtimes."""
    passing: dict[str, set[str]] = {runtime: set() for runtime in runtimes}
    for line in text.splitlines():
        name, _, only = line.partition(" ")
        for runtime in only.split(",") if only else runtimes:
            passing[runtime].add(name)
    return passing


@dataclass
class _Child:
    case: Case
    runtime: str
    pid: int
    pipe: int
    started_s: float
    said: bytes = b""


Judge: TypeAlias = Callable[[Case, TfliteRuntime], tuple[str, str]]
"""Returns (outcome, detail)."""


def run_board(
    cases: Sequence[Case], runtimes: Sequence[str], jobs: int = 2, *, judged: Judge = judge
) -> Iterator[Result]:
    """Yield a result for each case and runtime. Each runs in a forked process that already holds onnx and tflite-runtime."""
    _warm(runtimes)
    waiting = [(case, runtime) for case in cases for runtime in runtimes]
    waiting.reverse()
    running: dict[int, _Child] = {}
    while waiting or running:
        while waiting and len(running) < jobs:
            child = _start(*waiting.pop(), judged)
            running[child.pipe] = child
        ready, _, _ = select.select(list(running), [], [], 1.0)
        for pipe in ready:
            data = os.read(pipe, 65536)
            running[pipe].said += data
            if not data:
                yield _ended(running.pop(pipe))
        for child in running.values():
            if time.monotonic() - child.started_s > TIME_LIMIT_S:
                os.kill(child.pid, signal.SIGKILL)


def _warm(runtimes: Sequence[str]) -> None:
    """Import tflite-runtime once for all children. Only that: a loaded model would bring threads, which a fork loses."""
    if any(RUNTIMES[name].adapter == "tflite" for name in runtimes):
        import tflite_runtime.interpreter  # noqa: F401


def _start(case: Case, runtime: str, judged: Judge) -> _Child:
    read, write = os.pipe()
    pid = os.fork()
    if pid:
        os.close(write)
        return _Child(case, runtime, pid, read, time.monotonic())
    code = 1
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        os.write(write, json.dumps(judged(case, RUNTIMES[runtime])).encode()[:60000])
        code = 0
    finally:
        os._exit(code)


def _ended(child: _Child) -> Result:
    os.close(child.pipe)
    _, status = os.waitpid(child.pid, 0)
    if status == 0 and child.said:
        outcome, detail = json.loads(child.said)
    else:
        outcome, detail = "aborted", f"the process ended with {os.waitstatus_to_exitcode(status)}"
    return Result(child.case.kind, child.case.name, child.runtime, outcome, detail)
