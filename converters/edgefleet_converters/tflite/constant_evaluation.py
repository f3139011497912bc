"""Compute a node at compile time when all that it reads is constant, with the reference evaluator of the onnx package."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import onnx
import onnx.helper
from onnx.reference import ReferenceEvaluator

from edgefleet_converters.errors import ModelTooLargeError
from edgefleet_converters.tflite.builder import Builder
from edgefleet_converters.tflite.ir import Tensor
from edgefleet_converters.tflite.schema_operators import DTYPES

_RANDOM: Final = {
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
    "Bernoulli",
    "Multinomial",
    "Dropout",
}
_SHAPE_ONLY: Final = {"Shape", "Size"}
_TRACED: Final = {"If", "Loop", "Scan"}
_GROWING: Final = {"Expand": 1, "ConstantOfShape": 0, "Tile": 1}
"""Operator -> the input that says how much it makes."""
MAX_ELEMENTS: Final = 1 << 26
_TYPES: Final = set(DTYPES.values())


def fold_node(
    b: Builder,
    node: onnx.NodeProto,
    inputs: Sequence[Tensor | None],
    opsets: Mapping[str, int],
    model: onnx.ModelProto,
) -> Sequence[Tensor] | None:
    """Return the node's outputs as constants, None when it must run on the device or the evaluator cannot do it."""
    if node.op_type in _SHAPE_ONLY and not node.domain and inputs[0] is not None:
        return [b.const(_shape_value(node, inputs[0]))]
    given = [t for t in inputs if t is not None]
    if any(t.data is None for t in given) or node.op_type in _RANDOM | _TRACED or "Sequence" in node.op_type:
        return None
    _refuse_huge(b, node, inputs)
    names = [f"i{position}" if t is not None else "" for position, t in enumerate(inputs)]
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.input[:] = names
    copy.output[:] = [f"o{position}" if name else "" for position, name in enumerate(node.output)]
    graph = onnx.helper.make_graph(
        [copy], "one", [onnx.ValueInfoProto(name=name) for name in names if name],
        [onnx.ValueInfoProto(name=name) for name in copy.output if name],
    )  # fmt: skip
    one = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid(*entry) for entry in opsets.items()], functions=model.functions
    )
    feeds = {name: t.constant for name, t in zip(names, inputs, strict=True) if t is not None}
    try:
        with np.errstate(all="ignore"):
            results = ReferenceEvaluator(one).run(None, feeds)
    except Exception:  # noqa: BLE001 - the evaluator raises anything; the node is then lowered like any other
        return None
    return _constants(b, copy.output, results)


def _refuse_huge(b: Builder, node: onnx.NodeProto, inputs: Sequence[Tensor | None]) -> None:
    """Raise ModelTooLargeError before a few bytes become gigabytes: these operators make what their numbers say."""
    if node.op_type not in _GROWING or len(inputs) <= _GROWING[node.op_type]:
        return
    sizes = inputs[_GROWING[node.op_type]]
    first = inputs[0]
    assert sizes is not None
    assert first is not None
    count = math.prod(max(1, int(n)) for n in sizes.constant.reshape(-1))
    if node.op_type == "Tile":
        count *= first.constant.size
    if count > MAX_ELEMENTS:
        raise ModelTooLargeError(
            f"{b.where} would make a constant of {count} elements; the compiler takes {MAX_ELEMENTS}",
            next_step="use a smaller model, or publish it for an -ort profile",
        )


def _constants(b: Builder, names: Sequence[str], results: Sequence[Any]) -> Sequence[Tensor] | None:
    left = list(results)
    tensors = []
    for name in names:
        value = np.asarray(left.pop(0)) if name else np.zeros((), np.float32)
        if value.dtype.name not in _TYPES or value.size > MAX_ELEMENTS:
            return None
        tensors.append(b.const(value))
    return tensors


def _shape_value(node: onnx.NodeProto, x: Tensor) -> "np.ndarray[Any, Any]":
    if node.op_type == "Size":
        return np.array(int(np.prod(x.shape, dtype=np.int64)), np.int64)
    attributes = {a.name: int(a.i) for a in node.attribute}
    return np.array(x.shape[slice(attributes.get("start", 0), attributes.get("end", x.rank))], np.int64)
