"""`./dev soak silent-wrong`: every planted fault of the table, then random faults in random models, as N of M caught.

What is wrong is decided without the gate: the tampered file answers fresh random samples, in each runtime of its profile, and is held
against onnxruntime's answers of the source. float32 is wrong when more than 2 % of the samples have a value off by 10 times what
float32 declares. int8 is wrong when fewer than 90 % of the classes agree, or the answers of one output correlate by less than 0.8;
the gate may let 5 % of the classes go there. A tampered file that is not wrong by this counts as harmless, whatever the gate says.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edgefleet_converters.errors import ConversionError
from edgefleet_converters.gate import runtimes_of
from edgefleet_converters.job_steps import JobSteps, ModelFile
from edgefleet_converters.sample_data import SampleSet
from edgefleet_converters.sandbox import Sandbox
from edgefleet_protocol.digest import sha256_hex
from edgefleet_runtime.port import load
from tests.converters import tampers as t
from tests.converters.graphs import model_of, save
from tests.converters.sabotage import INT8, Array, Case, Tamper, both_tflite, converted, normal, workplace, x86
from tests.converters.silent_wrong import FAULTS, outcome

MODELS = 16
_FRESH = 300
_OPTIONS: dict[str, Any] = {"max_drop": 0.05}


@dataclass(frozen=True)
class Drawn:
    """A random model for one profile. shape: of a sample."""

    case: Case
    shape: list[int]
    is_int8: bool
    is_tflite: bool


def main(n: int, seed: int) -> dict[str, Any]:
    """Plant the table's faults and `n` random ones."""
    random = np.random.default_rng(seed)
    with workplace() as sandbox:
        missed_known = {}
        for fault in FAULTS:
            with tempfile.TemporaryDirectory() as folder:
                if told := outcome(fault, Path(folder)):
                    missed_known[fault.name] = told
        pool = [drawn for drawn in (_draw(random) for _ in range(MODELS)) if _is_offered(drawn)]
        counts = {"wrong": 0, "caught": 0, "harmless": 0, "harmless_refused": 0}
        missed = [told for number in range(n) if (told := _one(random, number, pool, sandbox, counts))]
    ok = not missed and not missed_known and bool(pool) and counts["wrong"] > 0
    return {
        "ok": ok, "table": {"of": len(FAULTS), "caught": len(FAULTS) - len(missed_known), "missed": missed_known},
        "random": {"models": len(pool), **counts, "missed": missed},
    }  # fmt: skip


def _one(random: np.random.Generator, number: int, pool: list[Drawn], sandbox: Sandbox, counts: dict[str, int]) -> str:
    """Plant one random fault and count what became of it. Return what was missed, or ""."""
    drawn = pool[int(random.integers(len(pool)))]
    name, tamper = (_of_tflite if drawn.is_tflite else _of_onnx)(random, is_int8=drawn.is_int8)
    made: list[bytes] = []

    def keep(data: bytes) -> bytes:
        made.append(tamper(data))
        return made[-1]

    with tempfile.TemporaryDirectory() as folder:
        report = converted(drawn.case, Path(folder), keep, **_options(drawn))
        why = _wrong(drawn, made[-1], sandbox, Path(folder), seed=number)
    if not why:
        counts["harmless"] += 1
        counts["harmless_refused"] += not report.bundles
        return ""
    counts["wrong"] += 1
    counts["caught"] += not report.bundles
    return f"{number} {name}: {why}" if report.bundles else ""


def _wrong(drawn: Drawn, data: bytes, sandbox: Sandbox, folder: Path, *, seed: int) -> str:
    """Return what is wrong with a tampered file on fresh samples, "" when nothing is."""
    arrays = normal(_FRESH, {"x": drawn.shape}, 1_000_000 + seed)
    source = load("ort", drawn.case.model(folder).read_bytes())
    rows = [source.run({"x": arrays["x"][i : i + 1]}) for i in range(_FRESH)]
    wanted = [np.concatenate([row[spec.name] for row in rows]) for spec in source.outputs]
    path = folder / f"tampered.{'tflite' if drawn.is_tflite else 'onnx'}"
    path.write_bytes(data)
    file = ModelFile(path, sha256_hex(data), len(data), {})
    for runtime in runtimes_of(drawn.case.profile()):
        try:
            answers = JobSteps(sandbox, folder).answers(file, runtime.name, SampleSet(arrays), key="fresh")
        except ConversionError as error:
            return f"{runtime.name}: {error.message}"
        for spec, value in zip(answers.specs, wanted, strict=True):
            if told := (_int8_wrong if drawn.is_int8 else _float_wrong)(answers.outputs[spec.name], value):
                return f"{runtime.name}: {told}"
    return ""


def _float_wrong(got: Array, wanted: Array) -> str:
    x, y = wanted.astype(np.float64), got.astype(np.float64)
    off = ~(np.abs(x - y) <= 1e-3 * max(float(np.ptp(x)), float(np.abs(x).max())) + 1e-2 * np.abs(x))
    share = float(off.reshape(len(x), -1).any(axis=1).mean())
    return f"{share:.0%} of the samples are off" if share > 0.02 else ""


def _int8_wrong(got: Array, wanted: Array) -> str:
    same = float(np.mean(got.argmax(axis=1) == wanted.argmax(axis=1)))
    related = float(np.corrcoef(got.ravel(), wanted.ravel())[0, 1]) if np.isfinite(got).all() and np.ptp(got) else 0.0
    return f"{same:.0%} of the classes agree, correlation {related:.2f}" if same < 0.9 or related < 0.8 else ""


# --- random models ---------------------------------------------------------------------------------------------------


def _draw(random: np.random.Generator) -> Drawn:
    is_tflite, is_int8 = bool(random.integers(2)), bool(random.integers(2))
    kind = ("dense", "convolution")[int(random.integers(2))]
    model, shape = (_dense if kind == "dense" else _convolution)(random)

    def data() -> dict[str, dict[str, Array]]:
        both = {"eval": normal(150, {"x": shape}, 7)}
        return both | ({"calibration": normal(100, {"x": shape}, 8)} if is_int8 else {})

    spec = INT8 | ({"act_dtype": "int8"} if is_tflite else {}) if is_int8 else {}
    case = Case(lambda folder: save(model, folder), both_tflite if is_tflite else x86(), data, spec)
    return Drawn(case, shape, is_int8, is_tflite)


def _is_offered(drawn: Drawn) -> bool:
    """Return whether the model passes without a fault: else a refusal would say nothing."""
    with tempfile.TemporaryDirectory() as folder:
        return bool(converted(drawn.case, Path(folder), lambda data: data, **_options(drawn)).bundles)


def _options(drawn: Drawn) -> dict[str, Any]:
    return _OPTIONS if drawn.is_int8 else {}


def _dense(random: np.random.Generator) -> tuple[onnx.ModelProto, list[int]]:
    sizes = [int(random.integers(8, 40)) for _ in range(int(random.integers(2, 4)))]
    weights: dict[str, Array] = {}
    nodes, now = [], "x"
    for at, (inner, outer) in enumerate(zip(sizes, [*sizes[1:], 5], strict=True)):
        weights[f"w{at}"] = (random.standard_normal((inner, outer)) / np.sqrt(inner)).astype(np.float32)
        weights[f"b{at}"] = (random.standard_normal(outer) * 0.3).astype(np.float32)
        last = at == len(sizes) - 1
        nodes.append(helper.make_node("Gemm", [now, f"w{at}", f"b{at}"], ["y" if last else f"h{at}"], name=f"gemm{at}"))
        now = f"h{at}"
        if not last:
            nodes.append(
                helper.make_node(str(random.choice(["Relu", "Tanh", "Sigmoid"])), [now], [f"a{at}"], name=f"act{at}")
            )
            now = f"a{at}"
    return model_of(nodes, weights, {"x": ["N", sizes[0]]}, {"y": ["N", 5]}), [sizes[0]]


def _convolution(random: np.random.Generator) -> tuple[onnx.ModelProto, list[int]]:
    channels, side, kernels = int(random.integers(1, 4)), int(random.integers(6, 11)), int(random.integers(4, 12))
    weights = {
        "w0": (random.standard_normal((kernels, channels, 3, 3)) / np.sqrt(9 * channels)).astype(np.float32),
        "b0": (random.standard_normal(kernels) * 0.3).astype(np.float32),
        "w1": (random.standard_normal((kernels * side * side, 5)) / side).astype(np.float32),
        "b1": (random.standard_normal(5) * 0.3).astype(np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w0", "b0"], ["c"], pads=[1, 1, 1, 1], name="conv"), helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Flatten", ["r"], ["f"]), helper.make_node("Gemm", ["f", "w1", "b1"], ["y"], name="gemm"),
    ]  # fmt: skip
    shape = [channels, side, side]
    return model_of(nodes, weights, {"x": ["N", *shape]}, {"y": ["N", 5]}), shape


# --- random faults ---------------------------------------------------------------------------------------------------


def _changes(random: np.random.Generator) -> tuple[str, Callable[[Array], Array]]:
    """Return a random change of a stored tensor of any type."""
    which, place = int(random.integers(6)), float(random.random())
    by, bit = float(random.choice([-1.0, 0.0, 0.25, 4.0])), int(random.integers(8))

    def row(value: Array) -> Array:
        value[int(place * len(value))] = (value[int(place * len(value))] * by).astype(value.dtype)
        return value

    def flipped(value: Array) -> Array:
        raw = value.reshape(-1).view(np.uint8).copy()
        at = int(place * value.size) * value.itemsize + value.itemsize - 1
        raw[at] ^= np.uint8(1 << bit)
        return raw.view(value.dtype).reshape(value.shape)

    changes: list[tuple[str, Callable[[Array], Array]]] = [
        (f"top byte's bit {bit}", flipped), (f"a row by {by:g}", row), ("rolled", lambda v: np.roll(v, 1, axis=0)),
        ("reversed", lambda v: np.ascontiguousarray(v[::-1])), ("zeroed", np.zeros_like),
        ("shuffled", lambda v: np.random.default_rng(bit).permutation(v.reshape(-1)).reshape(v.shape)),
    ]  # fmt: skip
    return changes[which]


def _of_onnx(random: np.random.Generator, *, is_int8: bool) -> tuple[str, Tamper]:
    told, change = _changes(random)
    pick = float(random.random())
    if random.random() < 0.2:
        scale = float(random.choice([-1.0, 0.5, 3.0]))
        node = helper.make_node("Mul", ["was", "by"], ["now"])
        return f"answers by {scale:g}", t.on_output([node], by=np.array(scale, np.float32))

    def changed(graph: onnx.GraphProto) -> None:
        kinds = (onnx.TensorProto.FLOAT, onnx.TensorProto.INT8, onnx.TensorProto.UINT8)
        able = [tensor for tensor in graph.initializer if tensor.dims and tensor.data_type in kinds]
        tensor = able[int(pick * len(able))]
        tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor).copy()), tensor.name))

    return f"{told} in stored tensor {pick:.2f}", t.graph(changed)


def _of_tflite(random: np.random.Generator, *, is_int8: bool) -> tuple[str, Tamper]:
    told, change = _changes(random)
    if is_int8 and random.random() < 0.4:
        by = float(random.choice([0.1, 0.5, 2.0, 10.0]))
        on_weights = bool(random.integers(2))
        return f"scales by {by:g}, weights {on_weights}", t.scales(lambda s: s * np.float32(by), weights=on_weights)
    if is_int8 and random.random() < 0.2:
        by_points = int(random.integers(3, 120))
        return f"zero points by {by_points}", t.zero_points(by_points)
    which = -1 if random.integers(2) else 0
    return f"{told} in constant {which}", t.stored(which, np.int8 if is_int8 else np.float32, change)
