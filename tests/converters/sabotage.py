"""Conversions with a fault planted in the file that the search would offer, after it was made and before it is judged."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import msgspec
import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from edgefleet_converters import pipeline
from edgefleet_converters.job_steps import JobSteps, ModelFile
from edgefleet_converters.report import ConversionReport
from edgefleet_converters.sandbox import Limits, Sandbox
from edgefleet_profiles.profile import HardwareProfile, ProfileRuntime
from tests.converters.graphs import changed, classifier, model_of, run, samples, save

Array = npt.NDArray[Any]
Tamper = Callable[[bytes], bytes]
When = Callable[[str, int], bool]
"""Given runtime and threads: whether the fault shows there."""
DIGITS = Path(__file__).parents[2] / "examples" / "digits"
INT8 = {"id": "int8-static", "precision": "int8", "method": "static", "per_channel": True}


@dataclass(frozen=True)
class Case:
    """A right model with data, for one profile. spec: the only candidate, float32 when it has no keys; options: of the conversion."""

    model: Callable[[Path], Path]
    profile: Callable[[], HardwareProfile]
    data: Callable[[], dict[str, dict[str, Array]]]
    spec: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)


class Saboteur(JobSteps):
    """A workshop whose candidates are tampered with."""

    def __init__(self, sandbox: Sandbox, folder: Path, tamper: Tamper, when: When | None) -> None:
        super().__init__(sandbox, folder)
        self._tamper, self._when, self._twins = tamper, when, dict[Path, Path]()

    def candidate(self, *args: Any, **keys: Any) -> ModelFile:
        """Make the candidate and plant the fault in it, or in a twin that takes its place now and then."""
        file = super().candidate(*args, **keys)
        path = self._new(f"tampered{file.path.suffix}")
        path.write_bytes(self._tamper(file.path.read_bytes()))
        if self._when is None:
            return self._file(path, file.facts)
        self._twins[file.path] = path
        return file

    def _run_args(self, model: ModelFile, runtime: str, **keys: Any) -> dict[str, Any]:
        args = super()._run_args(model, runtime, **keys)
        twin = self._twins.get(model.path)
        shows = twin is not None and self._when is not None and self._when(runtime, int(args["threads"]))
        return args | {"model": str(twin)} if shows else args


@contextmanager
def workplace(limits: Limits | None = None) -> Iterator[Sandbox]:
    """One sandbox for many conversions: its processes are started once."""
    with Sandbox(limits) as sandbox, mock.patch.object(pipeline, "Sandbox", return_value=_Kept(sandbox)):
        yield sandbox


class _Kept:
    """A sandbox that outlives the conversion."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    def __enter__(self) -> Sandbox:
        return self._sandbox

    def __exit__(self, *_: object) -> None:
        return


def converted(case: Case, folder: Path, tamper: Tamper, when: When | None = None, **options: Any) -> ConversionReport:
    """Convert a case with a fault planted in every candidate. tamper: returns its argument to plant none."""
    data = {role: samples(folder, f"{role}.npz", **arrays) for role, arrays in case.data().items()}
    if case.spec:
        data["recipe"] = str(folder / "recipe.json")
        (folder / "recipe.json").write_bytes(msgspec.json.encode({"candidates": [case.spec]}))
    else:
        options = {"precision": "fp32"} | options

    def workshop(sandbox: Sandbox, place: Path, *_: Any) -> Saboteur:
        return Saboteur(sandbox, place, tamper, when)

    with mock.patch.object(pipeline, "JobSteps", workshop):
        return run(case.model(folder), folder / "out", [case.profile()], data, **(case.options | options))[0]


# --- the models ------------------------------------------------------------------------------------------------------


def digits(_: Path) -> Path:
    """Return the example's classifier: `image` [N, 1, 8, 8] -> `logits` [N, 10]."""
    return DIGITS / "digits-1.1.0.onnx"


def digits_data(calibration: int = 0) -> dict[str, dict[str, Array]]:
    """Return 120 labelled samples that judge, and some to calibrate on."""
    known = np.load(DIGITS / "data" / "eval.npz")
    data = {"eval": {name: known[name][:120] for name in known.files}}
    if calibration:
        tuned = np.load(DIGITS / "data" / "calibration.npz")
        data["calibration"] = {name: tuned[name][:calibration] for name in tuned.files}
    return data


_WIDE = 400
"""Units of a layer that has enough weights to be smaller in int8."""


def two_headed(folder: Path) -> Path:
    """Return `x` [N, 16] -> `scores` [N, 4] and `vector` [N, 4], the second of other weights."""
    one, other = classifier(hidden=_WIDE, seed=0), classifier(hidden=_WIDE, seed=1)
    for node in other.graph.node:
        node.name += "_2"
        node.input[:] = [name if name == "x" else f"{name}_2" for name in node.input]
        node.output[:] = ["vector" if name == "scores" else f"{name}_2" for name in node.output]
    for tensor in other.graph.initializer:
        tensor.name += "_2"
    one.graph.node.extend(other.graph.node)
    one.graph.initializer.extend(other.graph.initializer)
    one.graph.output.append(helper.make_tensor_value_info("vector", onnx.TensorProto.FLOAT, ["N", 4]))
    return save(one, folder)


def two_inputs(folder: Path) -> Path:
    """Return `y` = tanh(`x` · w) + 0.001 · `unused`: an input that hardly matters."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Tanh", ["h"], ["t"]),
        helper.make_node("Mul", ["unused", "little"], ["u"]), helper.make_node("Add", ["t", "u"], ["y"]),
    ]  # fmt: skip
    weights = {
        "w": np.random.default_rng(0).standard_normal((8, 8)).astype(np.float32),
        "little": np.array(1e-7, np.float32),
    }
    return save(model_of(nodes, weights, {"x": ["N", 8], "unused": ["N", 8]}, {"y": ["N", 8]}), folder)


def recurrent(folder: Path) -> Path:
    """Return an LSTM of 8 units over 5 steps: `x` [5, 1, 4] -> `y` [5, 1, 1, 8]."""
    random = np.random.default_rng(2)
    weights = {
        "w": random.standard_normal((1, 32, 4)).astype(np.float32), "r": random.standard_normal((1, 32, 8)).astype(np.float32),
        "b": random.standard_normal((1, 64)).astype(np.float32),
    }  # fmt: skip
    node = helper.make_node("LSTM", ["x", "w", "r", "b"], ["y"], hidden_size=8)
    return save(model_of([node], weights, {"x": [5, 1, 4]}, {"y": [5, 1, 1, 8]}), folder)


def regression(folder: Path) -> Path:
    """Return `x` [N, 16] -> `y` [N, 3] of which the first is always the largest: class agreement says nothing of it."""
    model = classifier(classes=3, hidden=_WIDE)
    bias = next(tensor for tensor in model.graph.initializer if tensor.name == "b2")
    bias.CopyFrom(onnx.numpy_helper.from_array(np.array([400, 0, 0], np.float32), "b2"))
    return save(model, folder)


def normal(n: int, shapes: dict[str, list[int]], seed: int = 3) -> dict[str, Array]:
    """Return `n` normally distributed samples of each input."""
    random = np.random.default_rng(seed)
    return {name: random.standard_normal((n, *shape)).astype(np.float32) for name, shape in shapes.items()}


def x86(**keys: Any) -> Callable[[], HardwareProfile]:
    """Return a maker of the ONNX profile with four threads, so that threads are seen."""
    return lambda: changed("generic-x86_64-ort", threads=4, **keys)


def both_tflite() -> HardwareProfile:
    """Return a profile that is served by LiteRT and also proved on tflite-runtime 2.14."""
    also = [ProfileRuntime(name="tflite", version="2.14.0")]
    return changed("generic-x86_64-litert", also_verified_on=also, operator_set="tflite-2.14.0")


CASES: dict[str, Case] = {
    "digits": Case(digits, x86(), digits_data),
    "digits-int8": Case(digits, x86(), lambda: digits_data(80), INT8),
    "digits-int8-unlabelled": Case(digits, x86(), lambda: _unlabelled(80), INT8),
    "digits-tflite": Case(digits, both_tflite, digits_data),
    "digits-tflite-int8": Case(digits, both_tflite, lambda: digits_data(80), INT8 | {"act_dtype": "int8"}),
    "two-headed": Case(two_headed, x86(), lambda: {"eval": normal(100, {"x": [16]})}),
    "two-headed-int8": Case(
        two_headed, x86(),
        lambda: {"eval": normal(100, {"x": [16]}) | {"y.scores": _classes()}, "calibration": normal(60, {"x": [16]}, 4)}, INT8,
        {"max_drop": 0.1},
    ),
    "two-inputs": Case(two_inputs, x86(), lambda: {"eval": normal(60, {"x": [8], "unused": [8]})}),
    "recurrent": Case(recurrent, x86(), lambda: {"eval": normal(60, {"x": [5, 1, 4]})}),
    "recurrent-tflite": Case(recurrent, both_tflite, lambda: {"eval": normal(60, {"x": [5, 1, 4]})}),
    "regression-int8": Case(
        regression, x86(), lambda: {"eval": normal(100, {"x": [16]}), "calibration": normal(60, {"x": [16]}, 4)},
        INT8,
        {"metric": "agreement"},
    ),
}  # fmt: skip


def _unlabelled(calibration: int) -> dict[str, dict[str, Array]]:
    return {role: {"image": arrays["image"]} for role, arrays in digits_data(calibration).items()}


def _classes() -> Array:
    """Return the classes that the first head gives to the judging samples."""
    from edgefleet_runtime.port import load

    scores = load("ort", classifier(hidden=_WIDE, seed=0).SerializeToString()).run(normal(100, {"x": [16]}))["scores"]
    return np.asarray(scores.argmax(axis=1))
