"""Tiny real models and whole bundles for the worker's tests."""

import msgspec
import numpy as np
import numpy.typing as npt
from onnx import TensorProto, helper, numpy_helper

from edgefleet_agent.worker.observe.baseline import Baseline
from edgefleet_protocol.bundle import write_bundle
from edgefleet_protocol.digest import sha256_hex
from edgefleet_protocol.drift.reference import write_reference
from edgefleet_protocol.manifest import Declared, Manifest, Recipe, RuntimeProof, TensorSpec, Tolerance
from edgefleet_runtime.golden import dump_golden
from edgefleet_runtime.port import load
from edgefleet_runtime.postprocess import build_postprocessor
from edgefleet_runtime.signals import signal_values

FEATURES, CLASSES = 4, 3


def weights(scale: float = 1.0) -> npt.NDArray[np.float32]:
    """Return the 4 × 3 weights of the test classifier."""
    return (np.eye(FEATURES, CLASSES) * scale).astype(np.float32)


def classifier_onnx(scale: float = 1.0) -> bytes:
    """Return x [n, 4] float32 → y [n, 3] = softmax(x·W)."""
    nodes = [helper.make_node("MatMul", ["x", "w"], ["l"]), helper.make_node("Softmax", ["l"], ["y"], axis=1)]
    return _model(nodes, ["n", FEATURES], ["n", CLASSES], {"w": weights(scale)})


def table_onnx(features: int, classes: int) -> bytes:
    """Return x [n, features] → y [n, classes] = softmax(x·W), W fixed numbers."""
    w = np.random.default_rng(5).normal(size=(features, classes)).astype(np.float32)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["l"]), helper.make_node("Softmax", ["l"], ["y"], axis=1)]
    return _model(nodes, ["n", features], ["n", classes], {"w": w})


def picture_onnx(side: int) -> bytes:
    """Return x [n, 3, side, side] → y [n, 3]: the mean of each channel."""
    nodes = [helper.make_node("GlobalAveragePool", ["x"], ["p"]), helper.make_node("Flatten", ["p"], ["y"])]
    return _model(nodes, ["n", 3, side, side], ["n", 3], {})


def reference_bytes(model: bytes, x: npt.NDArray[np.float32]) -> bytes:
    """Return the reference of a classifier's samples, as a device would learn it of them."""
    runtime = load("ort", model)
    last = runtime.outputs[0].shape[-1]
    assert isinstance(last, int)
    labels = tuple(f"class {i}" for i in range(last))
    baseline = Baseline.of(runtime.inputs, runtime.outputs, build_postprocessor(None, labels, runtime.outputs))
    assert baseline is not None
    baseline.add(signal_values({"x": x}, runtime.run({"x": x}), baseline.plan))
    return write_reference(msgspec.structs.replace(baseline.learned(), source="reference"))


def nan_onnx() -> bytes:
    """Return x [n, 4] → y = √x·W: NaN for any negative input, and finite for every other."""
    nodes = [helper.make_node("Sqrt", ["x"], ["l"]), helper.make_node("MatMul", ["l", "w"], ["y"])]
    return _model(nodes, ["n", FEATURES], ["n", CLASSES], {"w": weights()})


def big_onnx(size: int) -> bytes:
    """Return x [1, size] → y = x + 1."""
    nodes = [helper.make_node("Add", ["x", "one"], ["y"])]
    return _model(nodes, [1, size], [1, size], {"one": np.ones((1, 1), np.float32)})


def crash_onnx(size: int = 1024) -> bytes:
    """Return a model that wants size³ floats at the first run: more than any memory limit of the tests."""
    big = np.array([size, size, size], np.int64)
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["s"], keepdims=0),
        helper.make_node("Expand", ["s", "shape"], ["e"]),
        helper.make_node("ReduceMean", ["e"], ["m"], keepdims=0),
        helper.make_node("Add", ["x", "m"], ["y"]),
    ]
    return _model(nodes, ["n", FEATURES], ["n", FEATURES], {"shape": big})


def bundle_bytes(
    model: bytes,
    *,
    name: str = "digits",
    version: str = "1.0.0",
    runtime: str = "ort",
    golden_shift: float = 0.0,
    golden_inputs: npt.NDArray[np.float32] | None = None,
    extra: dict[str, bytes] | None = None,
    golden_outputs: dict[str, npt.NDArray[np.float32]] | None = None,
    declared: Declared = Declared(),  # noqa: B008  # frozen
) -> bytes:
    """Return a bundle of `model` with 8 golden vectors computed here, shifted by golden_shift."""
    member = "model.onnx" if runtime == "ort" else "model.tflite"
    loaded = load(runtime, model)
    spec = loaded.inputs[0]
    width = spec.shape[1]
    assert isinstance(width, int)
    x = golden_inputs if golden_inputs is not None else np.random.default_rng(7).random((8, width), dtype=np.float32)
    if golden_outputs is None:
        rows = [loaded.run({spec.name: x[i : i + 1]}) for i in range(len(x))]
        golden_outputs = {n: np.concatenate([r[n] for r in rows]) + np.float32(golden_shift) for n in rows[0]}
    members = {member: model, "golden.npz": dump_golden({spec.name: x}, golden_outputs), **(extra or {})}
    manifest = Manifest(
        model=name,
        version=version,
        profile="generic-x86_64-ort",
        runtime=runtime,
        model_member=member,
        precision="fp32",
        format="onnx" if runtime == "ort" else "tflite",
        inputs=[TensorSpec(name=s.name, dtype=s.dtype, shape=s.shape) for s in loaded.inputs],
        outputs=[TensorSpec(name=s.name, dtype=s.dtype, shape=s.shape) for s in loaded.outputs],
        runtimes=[RuntimeProof(name=runtime, version=loaded.version)],
        tolerances={s.name: Tolerance(atol=1e-4, rtol=1e-3) for s in loaded.outputs},
        source_sha256=sha256_hex(model),
        recipe=Recipe(sha256=sha256_hex(b""), steps={}),
        operators={},
        declared=declared,
    )
    return write_bundle(members, manifest)


def _model(
    nodes: list[object], x: list[int | str], y: list[int | str], constants: dict[str, npt.NDArray[np.generic]]
) -> bytes:
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, y)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    data: bytes = model.SerializeToString()
    return data
