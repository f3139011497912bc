"""Write a model in onnxruntime's own format. Runs in a sandboxed child.

A `.ort` file is loaded as it is: onnxruntime optimises an ONNX file when it loads it, and a `.ort` file when it is made. So the
file holds the fused operators of the level EXTENDED, which run on any processor (ALL would add layouts of this one), and stored
weights stay packed: with constant folding they would come back as float32. It belongs to the onnxruntime version that made it.
"""

import math
from pathlib import Path
from typing import Any, Final

import onnx

from edgefleet_converters.errors import TransformError
from edgefleet_converters.onnx.block_weights import MIN_ELEMENTS
from edgefleet_converters.onnx.load import facts_of
from edgefleet_converters.onnx.ort_bytes import in_order

_FOLDING: Final = "ConstantFolding"
_CONVOLUTIONS: Final = frozenset({"Conv", "FusedConv", "ConvTranspose"})
_UNPACKING: Final = frozenset({"Cast", "DequantizeLinear"})


def ort_format_step(args: dict[str, Any]) -> dict[str, Any]:
    """Sandbox step. args: {model: an ONNX file, out}. Writes `out`; returns `{facts, slow: [operator]}`.

    facts: of the optimised graph. slow: operators in it that would run slower than from the ONNX file.
    """
    out = Path(args["out"])
    graph = out.with_suffix(".optimised.onnx")
    _saved(args["model"], graph, "ONNX")
    model = onnx.load_model_from_string(graph.read_bytes())
    graph.unlink()
    _saved(args["model"], out, "ORT")
    out.write_bytes(_in_order(out.read_bytes()))
    return {"facts": facts_of(model), "slow": _slow(model)}


def _in_order(data: bytes) -> bytes:
    try:
        return in_order(data)
    except ValueError as error:
        raise TransformError(
            f"onnxruntime writes its own format otherwise than before: {error}", next_step="use the .onnx file"
        ) from error


def _slow(model: onnx.ModelProto) -> list[str]:
    """Return float convolutions, which want a layout that is chosen when an ONNX file is loaded, and unpacking of weights."""
    stored = {tensor.name for tensor in model.graph.initializer if math.prod(tensor.dims) >= MIN_ELEMENTS}
    return sorted(
        {
            node.op_type
            for node in model.graph.node
            if node.op_type in _CONVOLUTIONS or (node.op_type in _UNPACKING and node.input[0] in stored)
        }
    )


def _saved(model: str, out: Path, form: str) -> None:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(out)
    options.add_session_config_entry("session.save_model_format", form)
    ort.InferenceSession(model, options, providers=["CPUExecutionProvider"], disabled_optimizers=[_FOLDING])
