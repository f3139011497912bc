"""Small ONNX graphs and a TFLite writer for tests of the converters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

import edgefleet_profiles
from edgefleet_converters.pipeline import convert
from edgefleet_converters.report import ConversionReport
from edgefleet_converters.request import ConversionRequest, DataFiles, Options
from edgefleet_profiles.profile import HardwareProfile

Array = npt.NDArray[Any]


def classifier(
    *, features: int = 16, classes: int = 4, hidden: int = 32, seed: int = 0, opset: int = 17, ir: int = 8
) -> onnx.ModelProto:
    """Return Gemm-Relu-Gemm with random weights: `x` float32 [N, features] -> `scores` float32 [N, classes]."""
    random = np.random.default_rng(seed)
    tensors = {
        "w1": random.standard_normal((features, hidden)).astype(np.float32),
        "b1": random.standard_normal(hidden).astype(np.float32),
        "w2": random.standard_normal((hidden, classes)).astype(np.float32),
        "b2": random.standard_normal(classes).astype(np.float32),
    }
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["h"], name="first"),
        helper.make_node("Relu", ["h"], ["r"], name="relu"),
        helper.make_node("Gemm", ["r", "w2", "b2"], ["scores"], name="second"),
    ]
    return model_of(nodes, tensors, {"x": ["N", features]}, {"scores": ["N", classes]}, opset=opset, ir=ir)


def model_of(
    nodes: Sequence[onnx.NodeProto], tensors: Mapping[str, Any], inputs: Mapping[str, Sequence[int | str]],
    outputs: Mapping[str, Sequence[int | str]], *, opset: int = 17, ir: int = 8, dtype: int = TensorProto.FLOAT,
) -> onnx.ModelProto:  # fmt: skip
    """Return a model; inputs and outputs by name with their shapes."""
    graph = helper.make_graph(
        list(nodes), "g",
        [helper.make_tensor_value_info(name, dtype, list(shape)) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape)) for name, shape in outputs.items()],
        [numpy_helper.from_array(value, name) for name, value in tensors.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir)


def save(model: onnx.ModelProto, folder: Path, name: str = "model.onnx") -> Path:
    """Write a model and return its path."""
    path = folder / name
    path.write_bytes(model.SerializeToString(deterministic=True))
    return path


def samples(folder: Path, name: str = "data.npz", **arrays: Array) -> str:
    """Write an `.npz` and return its path as text."""
    np.savez(folder / name, **arrays)
    return str(folder / name)


def data_for(model: onnx.ModelProto, n: int = 120, seed: int = 1) -> tuple[Array, Array]:
    """Return inputs float32 [n, features] and the classes that the model itself gives them."""
    import onnxruntime as ort

    features = model.graph.input[0].type.tensor_type.shape.dim[1].dim_value
    x = np.random.default_rng(seed).standard_normal((n, features)).astype(np.float32)
    scores = ort.InferenceSession(model.SerializeToString()).run(None, {"x": x})[0]
    return x, np.asarray(scores).argmax(axis=1)


def run(
    source: Path, out: Path, profiles: Sequence[str | HardwareProfile] = ("generic-x86_64-ort",),
    data: Mapping[str, str] | None = None, **options: Any,
) -> tuple[ConversionReport, list[dict[str, Any]]]:  # fmt: skip
    """Convert and return the report with all events."""
    events: list[dict[str, Any]] = []
    loaded = tuple(edgefleet_profiles.load(p) if isinstance(p, str) else p for p in profiles)
    request = ConversionRequest(
        model="tiny", version="1.0.0", source=source, profiles=loaded, data=DataFiles(**(data or {})),
        options=Options(**options), out_dir=out,
    )  # fmt: skip
    return convert(request, events.append), events


def changed(name: str, **keys: Any) -> HardwareProfile:
    """Return a built-in profile with some keys replaced."""
    return msgspec.structs.replace(edgefleet_profiles.load(name), **keys)
