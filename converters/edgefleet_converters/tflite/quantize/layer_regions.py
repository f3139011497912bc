"""What a search of layers quantises besides them, what leaves int8 with one, and what int8 saves in each. Pure."""

import math
from typing import Final

from edgefleet_converters.precision_ranking import time_saved
from edgefleet_converters.recipe import CandidateSpec
from edgefleet_converters.tflite.ir import Graph, Op
from edgefleet_converters.tflite.quantize.kernels import kernel_of

_FUNCTIONS: Final = frozenset({"LOGISTIC", "MUL", "RELU", "RELU6", "LEAKY_RELU", "HARD_SWISH", "TANH"})
"""Operators that activation functions are made of."""
MOVING: Final = frozenset({
    "ADD", "CONCATENATION", "GATHER", "MAX_POOL_2D", "PAD", "PADV2", "RESHAPE", "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR",
    "SLICE", "STRIDED_SLICE", "TRANSPOSE",
})  # fmt: skip
"""Operators that join or move what lies between layers. None of them, nor of the functions, is rewritten by `ready`, so ranges
of the graph as it is hold for what a candidate is made of."""


def wide_operators(graph: Graph, spec: CandidateSpec, adapter: str) -> tuple[str, ...]:
    """Return weighted operators with those of functions and those that move, as far as they have int8 kernels here.

    Empty when there are no functions. On a YOLO net LiteRT ran 9.0 ms with weighted operators in int8 alone, 8.1 with the functions,
    6.5 with those that move too (float32: 22.5), with the same loss.
    """
    kernels = {op.code for op in graph.ops if kernel_of(op, adapter) is not None}
    functions = kernels & _FUNCTIONS
    return tuple(sorted(functions | (kernels & MOVING) | (kernels & set(spec.op_types)))) if functions else ()


def region(graph: Graph, name: str) -> tuple[str, ...]:
    """Return the first results of a layer and of the functions behind it: what is computed of its exact result alone.

    name: of the layer's first result, which is how recipes call operators of compiled models.
    """
    users: dict[int, list[Op]] = {}
    for op in graph.ops:
        for tensor in op.inputs:
            users.setdefault(id(tensor), []).append(op)
    stack = [op for op in graph.ops if op.outputs[0].name == name]
    found = dict.fromkeys(op.outputs[0].name for op in stack)
    while stack:
        for tensor in stack.pop().outputs:
            for user in users.get(id(tensor), ()):
                if user.code in _FUNCTIONS and user.outputs[0].name not in found:
                    found[user.outputs[0].name] = None
                    stack.append(user)
    return tuple(found)


def saved_by_layer(graph: Graph) -> dict[str, float]:
    """Return layer -> multiply-adds that int8 saves (`worth.time_saved`) of operators with stored weights."""
    found = {}
    for op in graph.ops:
        weights = op.inputs[1] if len(op.inputs) > 1 else None
        if weights is None or weights.data is None:
            continue
        given, made, shape = op.inputs[2:3], math.prod(op.outputs[0].shape), weights.shape
        saved: float | None = None
        if op.code in ("CONV_2D", "FULLY_CONNECTED"):
            saved = time_saved(made * math.prod(shape[1:]), shape[-1])
        elif op.code == "DEPTHWISE_CONV_2D":
            saved = float(made * math.prod(shape[1:3]))
        elif op.code == "TRANSPOSE_CONV" and given and given[0] is not None:
            saved = time_saved(math.prod(given[0].shape) * math.prod(shape[:3]), shape[3])
        if saved is not None:
            found[op.outputs[0].name] = saved
    return found
