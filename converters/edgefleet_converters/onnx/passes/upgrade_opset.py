"""Raise the default operator set to a version that quantization needs.

Per-axis DequantizeLinear exists from opset 13; without the upgrade ORT's per-channel recipe fails on models of opset 12
(converters.md §0.5: PP-OCRv4). Whether the upgraded model still answers the same is checked by the caller (`simplify`).
"""

import onnx
from onnx import version_converter

from edgefleet_converters.onnx.load import opset_of

TARGET_OPSET = 17


class UpgradeOpset:
    """Case 1: opset below 17 becomes 17. Case 2: 17 and above stay."""

    name = "upgrade-opset"
    required = False

    def requires(self, model: onnx.ModelProto) -> str:
        """Needs the default domain."""
        return "" if opset_of(model) else "the model uses no default-domain operators"

    def apply(self, model: onnx.ModelProto) -> tuple[onnx.ModelProto, bool]:
        """Return the upgraded model. Raises whatever onnx's version converter raises."""
        if opset_of(model) >= TARGET_OPSET:
            return model, False
        after = version_converter.convert_version(model, TARGET_OPSET)
        after.ir_version = max(after.ir_version, 8)
        return after, True

    def ensures(self, before: onnx.ModelProto, after: onnx.ModelProto) -> str:
        """The result passes the ONNX checker and kept its inputs and outputs."""
        try:
            onnx.checker.check_model(after)
        except onnx.checker.ValidationError as error:
            return f"the upgraded model is invalid: {' '.join(str(error).split())[:200]}"
        same = [v.name for v in before.graph.input] == [v.name for v in after.graph.input]
        same = same and [v.name for v in before.graph.output] == [v.name for v in after.graph.output]
        return "" if same else "inputs or outputs changed"
