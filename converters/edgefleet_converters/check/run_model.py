"""Run a model in one runtime, in a sandboxed child, and write down what it answered.

The child is the only place where a model is executed. It uses the same adapters as the device's worker
(`edgefleet_runtime.port`), so what is proved here is what will run there.
"""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from edgefleet_converters.check.arena import smallest_arena
from edgefleet_converters.errors import LoadFailedError, RuntimeUnavailableError, TransformError
from edgefleet_converters.sample_data import read_arrays, stacked
from edgefleet_protocol.errors import EdgefleetError
from edgefleet_protocol.manifest import TensorSpec
from edgefleet_runtime.golden import slice_sample
from edgefleet_runtime.nonfinite import count_nonfinite
from edgefleet_runtime.port import (
    InputError,
    ModelLoadError,
    ModelRuntime,
    RunError,
    RuntimeMissingError,
    load,
)
from edgefleet_runtime.quantization import real_values, stored_values

Array = npt.NDArray[Any]
ANSWER_CPU_S: Final = 20.0
"""Processor time for the answer to one sample. A model that needs more is for no device; most likely it never ends."""


def probe_step(args: dict[str, Any]) -> dict[str, Any]:
    """Sandbox step. args: {runtime}. Imports the runtime and returns `{version}`. Raises RuntimeUnavailableError.

    Importing is the proof: tflite-runtime 2.14 installs next to numpy 2 and fails only here.
    """
    import importlib

    packages = {
        "ort": "onnxruntime", "litert": "ai_edge_litert.interpreter", "tflite": "tflite_runtime.interpreter",
        "tflm": "tflite_micro.python.tflite_micro.runtime",
    }  # fmt: skip
    try:
        module = importlib.import_module(packages.get(args["runtime"], args["runtime"]))
    except Exception as error:
        raise RuntimeUnavailableError(
            f"the runtime {args['runtime']} cannot be imported here: {' '.join(str(error).split())[:200]}",
            next_step="install it in the converter's Python",
        ) from error
    from edgefleet_runtime.port import available

    versions = {info.name: info.version for info in available()}
    return {"version": versions.get(args["runtime"], str(getattr(module, "__version__", "unknown")))}


def run_step(args: dict[str, Any]) -> dict[str, Any]:
    """Sandbox step. args: {runtime, model, threads, samples: npz|None, outputs: path|None, timed_runs, batch: samples in one
    run, 1 when missing, answer_cpu_s: processor time for one sample and thread, ANSWER_CPU_S when missing, feedback: {output
    position: input}, steps: runs, sample after sample, in which those outputs are given back; none when missing, each: runs of one
    stream}.

    Real values for a quantized input are stored as its integers first.

    Writes the outputs as `.npz`, first axis = samples. Returns `{version, inputs, outputs, n, nonfinite: {output: count},
    latency_ms: [p50, p95]|None, cold_start_ms: from the file to the first answer, the runtime's import included, arena_bytes: 0
    but for a timed run in TFLite Micro}`.

    Raises LoadFailedError, TransformError.
    """
    started_s = time.perf_counter()
    runtime = loaded(args["runtime"], Path(args["model"]).read_bytes(), threads=int(args["threads"]))
    answer: dict[str, Any] = {
        "version": runtime.version,
        "inputs": msgspec.to_builtins(runtime.inputs),
        "outputs": msgspec.to_builtins(runtime.outputs),
        "n": 0, "nonfinite": {}, "latency_ms": None, "cold_start_ms": None, "arena_bytes": 0,
    }  # fmt: skip
    if args["samples"] is None:
        return answer
    samples = read_arrays(Path(args["samples"]))
    known = len(next(iter(samples.values()))) if samples else 0
    count = int(args.get("steps") or known) if known else 0
    each = int(args.get("each") or max(count, 1))
    rows: list[dict[str, Array]] = []
    spent_ms: list[float] = []
    nonfinite: dict[str, int] = {}
    batch = int(args.get("batch", 1))
    answer_s = float(args.get("answer_cpu_s", ANSWER_CPU_S)) * max(1, int(args["threads"]))
    for index in range(0, count, batch):
        inputs = {
            spec.name: stored_values(spec, _sliced(spec, samples[spec.name], index % known, batch))
            for spec in runtime.inputs
        } | (_given_back(runtime, rows[-1], args.get("feedback") or {}) if rows and index % each else {})
        with _in_time(answer_s * min(batch, count - index)):
            row, elapsed_ms = _run(runtime, inputs)
        answer["cold_start_ms"] = answer["cold_start_ms"] or (time.perf_counter() - started_s) * 1e3
        rows.append(row)
        spent_ms.append(elapsed_ms)
        for name, value in row.items():
            bad = count_nonfinite(value)
            if bad:
                nonfinite[name] = nonfinite.get(name, 0) + bad
    if args["outputs"] is not None:
        answers = _stacked(runtime.outputs, rows) if batch == 1 else _joined(runtime.outputs, rows, count)
        np.savez(args["outputs"], **answers)
    answer.update(n=count, nonfinite=nonfinite)
    if args["timed_runs"] and count:
        first = {spec.name: stored_values(spec, slice_sample(spec, samples[spec.name], 0)) for spec in runtime.inputs}
        answer["latency_ms"] = _timed(runtime, first, int(args["timed_runs"]))
        if args["runtime"] == "tflm":
            answer["arena_bytes"] = smallest_arena(Path(args["model"]).read_bytes())
    return answer


def _given_back(runtime: ModelRuntime, row: dict[str, Array], feedback: dict[str, str]) -> dict[str, Array]:
    """Return the states of a run as inputs of the next one."""
    inputs = {spec.name: spec for spec in runtime.inputs}
    states = [(runtime.outputs[int(position)], name) for position, name in feedback.items()]
    return {name: stored_values(inputs[name], real_values(spec, np.asarray(row[spec.name]))) for spec, name in states}


@contextmanager
def _in_time(cpu_s: float) -> Iterator[None]:
    """End this process by SIGPROF when the block takes more processor time: no exception would reach a runtime's loop."""
    signal.setitimer(signal.ITIMER_PROF, cpu_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def loaded(runtime: str, data: bytes, *, threads: int) -> ModelRuntime:
    """Return a model in a runtime. Raises RuntimeUnavailableError, LoadFailedError, MemoryError."""
    try:
        return load(runtime, data, threads=threads)
    except RuntimeMissingError as error:
        raise RuntimeUnavailableError(error.message, next_step=error.next_step) from error
    except ModelLoadError as error:
        _raise_when_memory(error)
        raise LoadFailedError(error.message, next_step="export the model again, or choose another profile") from error


def _run(runtime: ModelRuntime, inputs: dict[str, Array]) -> tuple[dict[str, Array], float]:
    started_s = time.perf_counter()
    try:
        row = runtime.run(inputs)
    except (RunError, InputError) as error:
        _raise_when_memory(error)
        raise TransformError(error.message, next_step=error.next_step) from error
    return row, (time.perf_counter() - started_s) * 1e3


def _raise_when_memory(error: EdgefleetError) -> None:
    """Raise MemoryError when a runtime's own words say that memory ran out."""
    words = ("Failed to allocate memory", "bad_alloc", "bad allocation", "failed to allocate")
    if any(word in error.message for word in words):
        raise MemoryError(error.message) from error


def _timed(runtime: ModelRuntime, inputs: dict[str, Array], runs: int) -> list[float]:
    """Return p50 and p95 of at most `runs` runs or two seconds, in ms, after one warm-up."""
    _run(runtime, inputs)
    spent: list[float] = []
    deadline_s = time.monotonic() + 2.0
    while len(spent) < runs and (time.monotonic() < deadline_s or len(spent) < 3):
        spent.append(_run(runtime, inputs)[1])
    return [float(np.percentile(spent, 50)), float(np.percentile(spent, 95))]


def _sliced(spec: TensorSpec, array: Array, index: int, batch: int) -> Array:
    return slice_sample(spec, array, index) if batch == 1 else array[index : index + batch]


def _joined(specs: tuple[TensorSpec, ...], rows: list[dict[str, Array]], count: int) -> dict[str, Array]:
    """Return one array an output from runs in batches. Raises TransformError when there are not as many answers as samples."""
    joined = {}
    for position, spec in enumerate(specs):
        values = [np.asarray(row[spec.name]) for row in rows]
        if len({value.shape[1:] for value in values}) != 1 or sum(len(value) for value in values) != count:
            raise TransformError(
                f"output {spec.name!r} does not hold one answer for each sample when several are asked at once",
                next_step="export the model with a fixed first dimension of 1, or so that it takes batches",
            )
        joined[output_key(position)] = np.concatenate(values)
    return joined


def _stacked(specs: tuple[TensorSpec, ...], rows: list[dict[str, Array]]) -> dict[str, Array]:
    """Return one array an output, first axis = samples."""
    arrays: dict[str, Array] = {}
    for position, spec in enumerate(specs):
        values = [np.asarray(row[spec.name]) for row in rows]
        if len({value.shape for value in values}) != 1:
            raise TransformError(
                f"output {spec.name!r} has another shape for each sample, so samples cannot be compared",
                next_step="give samples of one size",
            )
        arrays[output_key(position)] = stacked(spec, values)
    return arrays


def output_key(position: int) -> str:
    """Return the array name of output number `position`: output names may hold characters that a zip member may not."""
    return f"o{position}"
