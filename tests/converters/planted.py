"""Planted faults: models with exactly one thing wrong for a profile, and the refusal that each must get."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import onnx
from onnx import TensorProto, helper

import edgefleet_profiles
from edgefleet_profiles.profile import HardwareProfile, OperatorLimit, ProfileRuntime, QuantRules
from tests.converters.graphs import changed, classifier, model_of
from tests.converters.int8_graphs import GELU, LOGISTIC, RELU, chain, dense, tensor
from tests.converters.tflite_graphs import code, operator, pack

Model: TypeAlias = bytes | onnx.ModelProto
_INT8 = QuantRules(mode="required", act_dtype="int8", weight_dtype="int8", dynamic_shapes=False, batch_fixed=True)


@dataclass(frozen=True)
class Fault:
    """One fault. key: the profile key that the refusal must name; words: further words, such as node and operator."""

    name: str
    key: str
    code: str
    profile: Callable[[], HardwareProfile]
    model: Callable[[], Model]
    words: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)


def shipped(name: str) -> Callable[[], HardwareProfile]:
    """Return a reader of a built-in profile."""
    return lambda: edgefleet_profiles.load(name)


def but(name: str, **keys: Any) -> Callable[[], HardwareProfile]:
    """Return a maker of a built-in profile with other values for some keys."""
    return lambda: changed(name, **keys)


def relu_onnx(shape: list[int | str], dtype: int = TensorProto.FLOAT) -> onnx.ModelProto:
    """Return `y` = relu(`x`) in ONNX with a node named `only`."""
    model = model_of([helper.make_node("Relu", ["x"], ["y"], name="only")], {}, {"x": shape}, {"y": shape}, dtype=dtype)
    model.graph.output[0].type.tensor_type.elem_type = dtype
    return model


def written(model: Model, folder: Path) -> Path:
    """Write a model into a folder and return its path."""
    path = folder / ("model.tflite" if isinstance(model, bytes) else "model.onnx")
    path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    return path


def unlisted() -> bytes:
    """Return a file whose only operator is STABLEHLO_ADD (163), which LiteRT has and tflite-runtime 2.14 has not."""
    tensors = [tensor("x", [1, 4], 0, scales=[]), tensor("y", [1, 4], 0, scales=[])]
    return pack(tensors, [operator([0, 0], [1])], [code(163, 1)], [], [0], [1])


def mostly_float() -> bytes:
    """Return a file with int8 weights behind float activations (dynamic range)."""
    return dense(act="float32", weight="int8", version=3)


def large_weights() -> bytes:
    """Return an int8 dense layer of 1 MiB of weights."""
    return dense(features=4096, classes=256)


CORAL, ARMV7, MICRO, X86, LITERT = (
    "coral-tflite-edgetpu", "raspberry-pi-armv7-tflite", "cortex-m-tflm", "generic-x86_64-ort", "generic-x86_64-litert",
)  # fmt: skip
QNN = "qualcomm-ort-qnn"
REQUIRED = {"quant": _INT8}

FAULTS: tuple[Fault, ...] = (
    Fault("float-on-coral", "quant.mode", "convert.precision_unavailable", shipped(CORAL),
          lambda: dense(act="float32", weight="float32", version=1), ("takes int8 models only", "without data")),
    Fault("dynamic-range-on-micro", "quant.mode", "convert.quantization_not_allowed", shipped(MICRO), mostly_float,
          ("the model is dynamic", "FULLY_CONNECTED")),
    Fault("int8-where-forbidden", "quant.mode", "convert.quantization_not_allowed",
          but(LITERT, quant=QuantRules(mode="forbidden")), dense),
    Fault("int16-activations-on-coral", "tensor_dtypes", "convert.dtype_not_allowed", shipped(CORAL),
          lambda: chain(LOGISTIC, [1, 16], dtype="int16"), ("node 0:0", "LOGISTIC", "int16")),
    Fault("uint8-activations", "quant.act_dtype", "convert.quantization_not_allowed", but(LITERT, **REQUIRED),
          lambda: dense(act="uint8", weight="uint8"), ("node 0:0", "FULLY_CONNECTED", "uint8 activations")),
    Fault("uint8-weights", "quant.weight_dtype", "convert.quantization_not_allowed", but(LITERT, **REQUIRED),
          lambda: dense(weight="uint8"), ("node 0:0", "uint8 weights")),
    Fault("scale-a-channel", "quant.per_channel", "convert.quantization_not_allowed",
          but(LITERT, quant=QuantRules(per_channel=False)), lambda: dense(per_channel=True), ("node 0:0", "FULLY_CONNECTED")),
    Fault("operator-too-new", "operator_set: tflite-2.14.0", "convert.unsupported_operator", shipped(ARMV7),
          lambda: dense(version=12), ("node 0:0", "FULLY_CONNECTED version 12", "up to version 10")),
    Fault("operator-unknown", "operator_set: tflite-2.14.0", "convert.unsupported_operator", shipped(ARMV7), unlisted,
          ("node 0:0", "STABLEHLO_ADD")),
    Fault("operator-outside-micro", "operator_set: tflm-", "convert.unsupported_operator", shipped(MICRO),
          lambda: chain(GELU, [1, 16]), ("node 0:0", "GELU")),
    Fault("operator-outside-own-list", "tflite_op_allowlist", "convert.unsupported_operator",
          but(LITERT, tflite_op_allowlist={"CONV_2D": OperatorLimit(max_version=9)}), dense, ("FULLY_CONNECTED",)),
    Fault("operator-on-odd-dtype", "tflite_op_allowlist", "convert.unsupported_operator",
          but(LITERT, tflite_op_allowlist={"RELU": OperatorLimit(dtypes=["float32"])}),
          lambda: chain(RELU, [1, 8], version=2), ("RELU", "int8")),
    Fault("rank-on-coral", "rank_max", "convert.rank_too_high", shipped(CORAL),
          lambda: chain(RELU, [1, 2, 2, 2, 2], version=2), ("node 0:0", "RELU", "4 dimensions")),
    Fault("batch-on-coral", "quant.batch_fixed", "convert.batch_not_fixed", shipped(CORAL), lambda: dense(batch=4),
          ("input 'x'", "4 samples")),
    Fault("open-shape-on-coral", "quant.dynamic_shapes", "convert.dynamic_shape", shipped(CORAL),
          lambda: dense(is_open=True), ("input 'x'",)),
    Fault("io-type", "quant.io_dtype", "convert.format_not_allowed",
          but(LITERT, quant=QuantRules(io_dtype="float32")), dense, ("input 'x' is int8",)),
    Fault("too-large-for-flash", "max_model_bytes", "convert.over_budget", shipped(MICRO), large_weights),
    Fault("too-large-for-arena", "max_arena_bytes", "convert.over_budget", shipped(MICRO),
          lambda: chain(RELU, [1, 100_000], version=2)),
    Fault("too-large-for-memory", "free_ram_budget_mb", "convert.over_budget", but(LITERT, free_ram_budget_mb=8), dense),
    Fault("too-large-for-board", "ram_mb", "convert.over_budget", but(LITERT, free_ram_budget_mb=0, ram_mb=8), dense),
    Fault("too-large-for-storage", "storage_mb", "convert.over_budget", but(LITERT, storage_mb=1), large_weights),
    Fault("no-rknn-here", "backend.kind: plugin", "convert.backend_missing", shipped("rk3588-rknn"), classifier,
          ("rknn-toolkit2",)),
    Fault("no-hailo-here", "backend.kind: external", "convert.backend_missing", shipped("hailo-8-hailort"), dense,
          ("Dataflow Compiler",)),
    Fault("tflite-on-ort", "formats_allowed", "convert.format_not_allowed", shipped(X86), dense),
    Fault("opset", "opset_max", "convert.opset_too_new", but(X86, opset_max=15), classifier, ("opset 17",)),
    Fault("ir", "ir_max", "convert.opset_too_new", but(X86, ir_max=7), classifier),
    Fault("onnx-float64", "tensor_dtypes", "convert.dtype_not_allowed",
          but(X86, tensor_dtypes=["float32", "int8", "uint8"]), lambda: relu_onnx([1, 8], TensorProto.DOUBLE),
          ("node only", "Relu", "float64"), {"precision": "fp32"}),
    Fault("onnx-rank", "rank_max", "convert.rank_too_high", but(X86, rank_max=5),
          lambda: relu_onnx([2, 2, 2, 2, 2, 2]), ("node only", "Relu", "6 dimensions"), {"precision": "fp32"}),
    Fault("onnx-batch-on-qnn", "quant.batch_fixed", "convert.batch_not_fixed", shipped(QNN), lambda: relu_onnx([4, 8]),
          ("input 'x'",)),
    Fault("fp32-on-qnn", "quant.mode", "convert.precision_unavailable", shipped(QNN), lambda: relu_onnx([1, 8]), (),
          {"precision": "fp32"}),
    Fault("other-runtime-version", "1.2.3", "convert.runtime_unavailable",
          but(X86, runtime=ProfileRuntime(name="ort", version="1.2.3")), classifier),
)  # fmt: skip
"""Every fault; the pipeline must refuse each with this code, naming the key."""

CONTROLS: tuple[tuple[str, Callable[[], Model]], ...] = (
    (CORAL, dense), (CORAL, lambda: dense(act="uint8", weight="uint8")), (ARMV7, dense), (MICRO, dense),
    (MICRO, lambda: chain(RELU, [1, 1000], version=2)), (LITERT, dense), (LITERT, lambda: dense(per_channel=True)),
    (LITERT, lambda: dense(batch=4)), ("imx8m-plus-litert", dense), (X86, classifier),
    (X86, lambda: relu_onnx([2, 2, 2, 2, 2, 2])),
)  # fmt: skip
"""Models without a fault for the profiles that faults were planted for: each must become a bundle."""
