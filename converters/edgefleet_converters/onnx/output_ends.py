"""The operator that makes each output of an ONNX model, behind what only moves or stores values."""

from typing import Final

import onnx

_MOVES: Final = {
    "Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Cast", "Slice", "Gather", "Dropout", "Pad",
    "QuantizeLinear", "DequantizeLinear",
}  # fmt: skip
_MOST_STEPS: Final = 64


def output_ends(model: onnx.ModelProto) -> list[str]:
    """Return an operator for each output, "" for one that is an input or a stored tensor."""
    made_by = {name: node for node in model.graph.node for name in node.output if name}
    return [_end(output.name, made_by) for output in model.graph.output]


def _end(name: str, made_by: dict[str, onnx.NodeProto]) -> str:
    for _ in range(_MOST_STEPS):
        node = made_by.get(name)
        if node is None:
            return ""
        if node.op_type not in _MOVES or not node.input:
            return str(node.op_type)
        name = node.input[0]
    return ""
