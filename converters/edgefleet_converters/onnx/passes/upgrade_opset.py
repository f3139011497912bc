"""Raise the default operator set to a version that quantization needs.

Per-axis DequantizeLinear exists from opset 13; without the upgrade ORT's per-channel recipe fails on models of opset 12
(PP-OCRv4 is one). Whether the upgraded model still answers the same is checked by the caller (`simplify`).
"""

import onnx
from onnx import version_converter

from edgefleet_converters.onnx.load import opset_of
from edgefleet_converters.onnx.passes.promises import not_valid, other_ends

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
        return not_valid(after, "upgraded") or other_ends(before, after)
