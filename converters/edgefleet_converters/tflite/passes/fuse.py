"""Let a kernel do the activation that follows it."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from edgefleet_converters.tflite.ir import Graph, Op
from edgefleet_converters.tflite.passes.contract import broken

_ACTIVATIONS: Final = {"RELU": 1, "RELU6": 3}
"""Operator -> number in the schema's ActivationFunctionType."""
_FUSING: Final = {
    "CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "ADD", "SUB", "MUL", "DIV", "MAX_POOL_2D", "AVERAGE_POOL_2D",
}  # fmt: skip

_MOVING: Final = {"RESHAPE", "TRANSPOSE"}


class FuseActivations:
    """Case 1: a float kernel whose only reader is RELU or RELU6 takes it over, also where its values are only moved in between.
    Case 2: a result with other readers stays.
    """

    name = "fuse-activations"
    required = False

    def requires(self, _model: Graph) -> str:
        """Always runs."""
        return ""

    def apply(self, model: Graph) -> tuple[Graph, bool]:
        """Return the graph with fused activations."""
        readers: dict[int, int] = {}
        for op in model.ops:
            for tensor in op.inputs:
                readers[id(tensor)] = readers.get(id(tensor), 0) + 1
        for tensor in model.outputs:
            readers[id(tensor)] = readers.get(id(tensor), 0) + 1
        ops: list[Op] = []
        maker: dict[int, int] = {}
        for op in model.ops:
            last = kernel = _alone(op, maker, readers) if op.code in _ACTIVATIONS else -1
            while kernel >= 0 and ops[kernel].code in _MOVING:
                kernel = _alone(ops[kernel], maker, readers)
            if kernel >= 0 and _can_take(ops[kernel]):
                options = {**ops[kernel].options, "fused_activation_function": _ACTIVATIONS[op.code]}
                ops[kernel] = replace(ops[kernel], options=options)
                ops[last] = replace(ops[last], outputs=op.outputs)
                maker[id(op.outputs[0])] = last
                continue
            maker.update({id(t): len(ops) for t in op.outputs})
            ops.append(op)
        return replace(model, ops=tuple(ops)), len(ops) != len(model.ops)

    def ensures(self, before: Graph, after: Graph) -> str:
        """Inputs, outputs and order are kept."""
        return broken(before, after)


def _alone(op: Op, maker: Mapping[int, int], readers: Mapping[int, int]) -> int:
    """Return the position of what makes an operator's first input, -1 where that has other readers or is given."""
    first = op.inputs[0] if op.inputs else None
    return maker.get(id(first), -1) if readers.get(id(first)) == 1 else -1


def _can_take(op: Op) -> bool:
    return op.code in _FUSING and not op.options.get("fused_activation_function") and op.outputs[0].dtype == "float32"
