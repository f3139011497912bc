"""Shapes that a model promises for values between its nodes, from those that it declares.

An elementwise operator gives its input's shape, so one declared result fixes the shapes of all values that it is made of in this
way. That matters where a length is known only at run time (a range, a sum over given axes) and only the graph's output is declared.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import onnx

from edgefleet_converters.tflite.ir import Shape

_UNARY: Final = {
    "Sqrt", "Log", "Exp", "Cast", "CastLike", "Identity", "Neg", "Abs", "Cos", "Sin", "Not", "Relu", "Tanh", "Sigmoid", "Floor",
    "Reciprocal",
}  # fmt: skip
_BINARY: Final = {"Add", "Sub", "Mul", "Div"}


def promised_shapes(
    nodes: Sequence[onnx.NodeProto], declared: Mapping[str, Shape], scalars: set[str]
) -> dict[str, Shape]:
    """Return `declared` and what follows from it. scalars: names of values of rank 0."""
    single = _all_scalars(nodes, scalars)
    group: dict[str, str] = {}

    def root(name: str) -> str:
        while group.get(name, name) != name:
            name = group[name]
        return name

    for node in nodes:
        wide = [name for name in node.input if name not in single]
        if node.op_type in _UNARY and wide:
            group[root(node.output[0])] = root(node.input[0])
        elif node.op_type in _BINARY and wide and len({root(name) for name in wide}) == 1:
            group[root(node.output[0])] = root(wide[0])
    known = {root(name): shape for name, shape in declared.items()}
    names = {name for node in nodes for name in (*node.input, *node.output) if name}
    return {name: known[root(name)] for name in names if root(name) in known} | dict(declared)


def _all_scalars(nodes: Sequence[onnx.NodeProto], scalars: set[str]) -> set[str]:
    single = set(scalars)
    for node in nodes:
        constant = node.op_type == "Constant" and _is_scalar(node)
        computed = node.op_type in _UNARY | _BINARY and all(name in single for name in node.input)
        if constant or computed:
            single |= set(node.output)
    return single


def _is_scalar(node: onnx.NodeProto) -> bool:
    attribute = node.attribute[0]
    return attribute.name in ("value_int", "value_float") or (attribute.name == "value" and not attribute.t.dims)
