"""Fit the range of a tensor to what the operators behind it can tell apart. Pure.

An int8 scale spends its 256 steps on the whole range that was seen. Where all users of a tensor map a part of it to one value,
that part needs no steps: a layer before SiLU that answers -130 … 143 gets 143 / 255 a step instead of 273 / 255. Cases, each for a
tensor that nothing else reads and that is no output of the model:

1. Relu: nothing below 0.
2. HardSwish, or HardSigmoid with the product of both: nothing below the point where it becomes 0.
3. SiLU (Sigmoid and the product of both): nothing below the point from which it stays within a quarter step of 0, a step being
   that of the product's own range.

A tensor that is only joined to others (Concat) is written in the scale of the whole: finer steps would be rounded away there, and
with equal scales joining is copying.
"""

import math
from collections.abc import Mapping, Sequence, Set
from typing import Final

import onnx

Ranges = Mapping[str, tuple[float, float]]

_LEVELS: Final = 255
_MOVING: Final = frozenset({
    "", "Flatten", "Gather", "Identity", "MaxPool", "Pad", "Reshape", "Resize", "Slice", "Softmax", "Split", "Squeeze",
    "Transpose", "Unsqueeze",
})  # fmt: skip
"""Makers whose result keeps a scale that is given: that of what they move, or (Softmax, a model's input) their own."""
_SILU_LOWEST: Final = -1.2784645
"""Where SiLU has its minimum; below it the function rises towards 0."""
_SILU_FAR: Final = -40.0


def cut(model: onnx.ModelProto, ranges: Ranges) -> dict[str, tuple[float, float]]:
    """Return `ranges` with lower ends raised where that changes no answer by more than a quarter of an 8-bit step."""
    users: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    outputs = {value.name for value in model.graph.output}
    after = dict(ranges)
    for name, (low, high) in ranges.items():
        floor = None if name in outputs else _floor(name, users.get(name, ()), ranges)
        if floor is not None and low < floor < high:
            after[name] = (floor, high)
    return _joined(model, after, {name: len(nodes) for name, nodes in users.items()}, outputs)


def _joined(
    model: onnx.ModelProto, ranges: Ranges, readers: Mapping[str, int], outputs: Set[str]
) -> dict[str, tuple[float, float]]:
    """Return `ranges` in which what only a Concat reads has the range of its result, the last Concat first.

    Left as they are: results of operators that only move numbers, whose scale is that of what they move.
    """
    after = dict(ranges)
    makers = {name: node.op_type for node in model.graph.node for name in node.output}
    for node in reversed(model.graph.node):
        whole = after.get(node.output[0]) if node.op_type == "Concat" else None
        for name in node.input if whole is not None else ():
            alone = readers[name] == 1 and name not in outputs
            if whole is not None and alone and name in after and makers.get(name, "") not in _MOVING:
                after[name] = whole
    return after


def _floor(name: str, users: Sequence[onnx.NodeProto], ranges: Ranges) -> float | None:
    """Return the value below which the users see no difference; None when there is none."""
    kinds = sorted(node.op_type for node in users)
    if kinds == ["Relu"]:
        return 0.0
    if kinds == ["HardSwish"]:
        return -3.0
    if len(users) != 2 or "Mul" not in kinds or kinds == ["Mul", "Mul"]:
        return None
    product, gate = sorted(users, key=lambda node: node.op_type != "Mul")
    if set(product.input) != {name, gate.output[0]}:
        return None
    if gate.op_type == "HardSigmoid":
        facts = {attribute.name: attribute.f for attribute in gate.attribute}
        slope = facts.get("alpha", 0.2)
        return -facts.get("beta", 0.5) / slope if slope > 0 else None
    if gate.op_type == "Sigmoid" and product.output[0] in ranges:
        low, high = ranges[product.output[0]]
        return _silu_floor((high - low) / _LEVELS / 4)
    return None


def _silu_floor(near: float) -> float:
    """Return the highest x at or below the minimum of SiLU from which on |silu| stays at most `near`."""
    low, high = _SILU_FAR, _SILU_LOWEST
    if _silu(high) >= -near:
        return high
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if _silu(middle) >= -near else (low, middle)
    return low


def _silu(x: float) -> float:
    return x / (1 + math.exp(-x))
