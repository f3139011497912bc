"""Write Softmax over a short axis that is not the last one as the sums and quotients that it is made of.

onnxruntime's CPU kernel turns the axis to the end, computes, and turns it back. The two copies cost more than the function:
1.35 of the 18 ms of a YOLOv8 head with 16 x 4 x 2100 numbers. Reductions over an axis in the middle read rows as they lie and
take a quarter of that. exp(x - max) / sum is what the kernel computes too, so answers differ by float32 rounding alone.
"""

import math
from typing import Final

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edgefleet_converters.onnx.load import opset_of
from edgefleet_converters.onnx.passes.promises import not_valid, other_ends
from edgefleet_converters.onnx.walk import attributes_of, fresh_name, value_names

_LAST_IS_DEFAULT_OPSET: Final = 13
"""From this opset on Softmax is over one axis; before, over all from the axis on."""
_REDUCE_MAX_INPUT_OPSET: Final = 18
"""From this opset on the axes of ReduceMax are an input; those of ReduceSum are one since 13."""
_LONGEST: Final = 64
_SHORTEST_ROW: Final = 32
"""Measured on one x86 core, time as written here by time of Softmax: length 16, rows of 2100: 0.36; 21, 4096: 0.31; 8, 4096: 0.24;
1000, 49: 0.46. Worse: rows of 16: 1.4; length 512, rows of 512: 1.6."""


class SpellSoftmax:
    """Case 1: Softmax of a known shape, at most `_LONGEST` long with at least `_SHORTEST_ROW` numbers behind each place on its
    axis, becomes ReduceMax, Sub, Exp, ReduceSum, Div. Case 2: any other Softmax stays.
    """  # fmt: skip

    name = "spell-softmax"
    required = False

    def requires(self, model: onnx.ModelProto) -> str:
        """Needs a Softmax over one axis."""
        if opset_of(model) < _LAST_IS_DEFAULT_OPSET:
            return f"Softmax of opset {opset_of(model)} is over several axes"
        return "" if any(node.op_type == "Softmax" for node in model.graph.node) else "the model has no Softmax"

    def apply(self, model: onnx.ModelProto) -> tuple[onnx.ModelProto, bool]:
        """Return the rewritten model. Shapes are those that the model states (shape inference comes before)."""
        shapes = _shapes(model)
        after = onnx.ModelProto()
        after.CopyFrom(model)
        taken = value_names(model)
        nodes: list[onnx.NodeProto] = []
        for node in after.graph.node:
            axis = _axis(node, shapes)
            nodes.extend([node] if axis is None else _spelled(after, node, axis, taken))
        changed = len(nodes) != len(model.graph.node)
        if not changed:
            return model, False
        del after.graph.node[:]
        after.graph.node.extend(nodes)
        return after, True

    def ensures(self, before: onnx.ModelProto, after: onnx.ModelProto) -> str:
        """The result passes the ONNX checker, and inputs and outputs are as before."""
        return not_valid(after, "rewritten") or other_ends(before, after)


def _shapes(model: onnx.ModelProto) -> dict[str, list[int]]:
    """Return tensor -> lengths, 0 for open ones, of float32 tensors whose rank is known."""
    known = {}
    for value in (*model.graph.input, *model.graph.value_info, *model.graph.output):
        kind = value.type.tensor_type
        if kind.elem_type == onnx.TensorProto.FLOAT and kind.HasField("shape"):
            known[value.name] = [dim.dim_value for dim in kind.shape.dim]
    return known


def _axis(node: onnx.NodeProto, shapes: dict[str, list[int]]) -> int | None:
    """Return the axis, counted from 0, of a Softmax that is to be rewritten; None for all else."""
    shape = shapes.get(node.input[0]) if node.op_type == "Softmax" else None
    if not shape:
        return None
    axis = int(attributes_of(node).get("axis", -1)) % len(shape)
    suits = 0 < shape[axis] <= _LONGEST and math.prod(shape[axis + 1 :]) >= _SHORTEST_ROW and axis < len(shape) - 1
    return axis if suits else None


def _spelled(model: onnx.ModelProto, node: onnx.NodeProto, axis: int, taken: set[str]) -> list[onnx.NodeProto]:
    """Return the nodes that take the place of a Softmax; stored axes are added to `model`, names to `taken`."""
    given, made = node.input[0], node.output[0]
    top, low, power, total = (fresh_name(f"{made}_{word}", taken) for word in ("max", "less", "exp", "sum"))
    axes = fresh_name(f"{made}_axes", taken)
    model.graph.initializer.append(numpy_helper.from_array(np.array([axis], np.int64), axes))
    as_input = opset_of(model) >= _REDUCE_MAX_INPUT_OPSET
    name = node.name or made
    return [
        helper.make_node("ReduceMax", [given, axes] if as_input else [given], [top], name=f"{name}/max", keepdims=1,
                         **({} if as_input else {"axes": [axis]})),
        helper.make_node("Sub", [given, top], [low], name=f"{name}/less"),
        helper.make_node("Exp", [low], [power], name=f"{name}/exp"),
        helper.make_node("ReduceSum", [power, axes], [total], name=f"{name}/sum", keepdims=1),
        helper.make_node("Div", [power, total], [made], name=f"{name}/part"),
    ]  # fmt: skip
