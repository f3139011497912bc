"""Shapes that a model promises for values between its nodes, read backwards from those that it declares.

An elementwise operator gives its input's shape, so a declared result also fixes what it was made of. That matters where a length
is known only at run time (a range, a sum over given axes) and only the graph's output is declared.
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


def backwards(nodes: Sequence[onnx.NodeProto], declared: Mapping[str, Shape], scalars: set[str]) -> dict[str, Shape]:
    """Return `declared` and what follows from it. scalars: names of values of rank 0."""
    known = dict(declared)
    single = set(scalars)
    for node in nodes:
        constant = node.op_type == "Constant" and _is_scalar(node)
        computed = node.op_type in _UNARY | _BINARY and all(name in single for name in node.input)
        if constant or computed:
            single |= set(node.output)
    for node in reversed(nodes):
        shape = known.get(node.output[0]) if node.output else None
        if shape is None:
            continue
        if node.op_type in _UNARY:
            known.setdefault(node.input[0], shape)
        elif node.op_type in _BINARY:
            wide = [name for name in node.input if name not in single]
            if len(wide) == 1 and len(set(node.input)) > 1:
                known.setdefault(wide[0], shape)
            elif len(set(node.input)) == 1 and wide:
                known.setdefault(wide[0], shape)
    return known


def _is_scalar(node: onnx.NodeProto) -> bool:
    attribute = node.attribute[0]
    return attribute.name in ("value_int", "value_float") or (attribute.name == "value" and not attribute.t.dims)
