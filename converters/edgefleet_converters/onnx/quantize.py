"""Make one candidate from a simplified model: float16, dynamic int8 or static int8 (QDQ). Runs in a sandboxed child.

What is done is data (`recipe.CandidateSpec`), so a bundle can carry it. The defaults of the tools destroy real models
(converters.md §0.4); which operators are quantised, and that heads can stay float, is therefore part of the spec.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy.typing as npt
import onnx

from edgefleet_converters.data import read_arrays
from edgefleet_converters.errors import TransformError
from edgefleet_converters.onnx.load import facts_of, opset_of, parse, serialise
from edgefleet_converters.onnx.passes.fold import canonical
from edgefleet_converters.onnx.passes.gemm_to_matmul import GemmToMatMul
from edgefleet_converters.passes.base import run_passes
from edgefleet_converters.recipe import CandidateSpec
from edgefleet_protocol.manifest import TensorSpec
from edgefleet_runtime.golden import slice_sample

Array = npt.NDArray[Any]

WEIGHTED: Final = ("Conv", "ConvTranspose", "MatMul", "Gemm")
_DYNAMIC_ALL: Final = ("Conv", "MatMul", "Gemm", "Gather", "LSTM", "Attention", "EmbedLayerNormalization")
_PER_CHANNEL_OPSET: Final = 13


def candidate_step(args: dict[str, Any]) -> dict[str, Any]:
    """Sandbox step. args: {model, spec, calibration: npz|None, inputs: [TensorSpec], out}.

    Writes `out`; returns `{facts}`. Raises TransformError when the recipe cannot be applied.
    """
    spec = msgspec.convert(args["spec"], CandidateSpec)
    model = parse(Path(args["model"]).read_bytes())
    if spec.method == "float16":
        made = _float16(model)
    elif spec.method == "dynamic":
        made = _dynamic(model, spec)
    else:
        made = _static(model, spec, Path(args["calibration"]), msgspec.convert(args["inputs"], list[TensorSpec]))
    made = canonical(made, like=model)
    if spec.method != "float16" and not _is_quantized(made):
        raise TransformError(
            "no node of the model was quantised by this recipe", next_step="choose another precision or recipe"
        )
    Path(args["out"]).write_bytes(serialise(made))
    return {"facts": facts_of(made)}


def _float16(model: onnx.ModelProto) -> onnx.ModelProto:
    from onnxruntime.transformers.float16 import convert_float_to_float16

    made: onnx.ModelProto = convert_float_to_float16(model, keep_io_types=True)
    return made


def _dynamic(model: onnx.ModelProto, spec: CandidateSpec) -> onnx.ModelProto:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    named = _with_node_names(run_passes(model, [GemmToMatMul()]).model)
    present = {node.op_type for node in named.graph.node}
    wanted = [op for op in (spec.op_types or _DYNAMIC_ALL) if op in present]
    if not wanted:
        raise TransformError(
            f"the model has no {', '.join(spec.op_types or _DYNAMIC_ALL)}",
            next_step="choose another precision or recipe",
        )
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "dynamic.onnx"
        quantize_dynamic(
            named, out, op_types_to_quantize=wanted, per_channel=spec.per_channel, reduce_range=spec.reduce_range,
            weight_type=QuantType.QInt8, nodes_to_exclude=list(spec.exclude),
        )  # fmt: skip
        return onnx.load_model_from_string(out.read_bytes())


class _Samples:
    """ORT's CalibrationDataReader over an `.npz`: one sample a step, in the model's own shapes."""

    def __init__(self, arrays: dict[str, Array], inputs: list[TensorSpec]) -> None:
        self._arrays, self._inputs = arrays, inputs
        self._n = len(next(iter(arrays.values())))
        self._steps = self._iterate()

    def _iterate(self) -> Iterator[dict[str, Array]]:
        for index in range(self._n):
            yield {spec.name: slice_sample(spec, self._arrays[spec.name], index) for spec in self._inputs}

    def get_next(self) -> dict[str, Array] | None:
        """Return the next sample; None at the end."""
        return next(self._steps, None)

    def rewind(self) -> None:
        """Start again from the first sample."""
        self._steps = self._iterate()

    def __len__(self) -> int:
        return self._n


def _static(
    model: onnx.ModelProto, spec: CandidateSpec, calibration: Path, inputs: list[TensorSpec]
) -> onnx.ModelProto:
    if spec.per_channel and opset_of(model) < _PER_CHANNEL_OPSET:
        raise TransformError(
            f"per-channel int8 needs opset {_PER_CHANNEL_OPSET}, the model has {opset_of(model)} and could not be upgraded",
            next_step="export the model with opset 17",
        )
    samples = read_arrays(calibration)
    try:
        return _quantize_static(model, spec, _Samples(samples, inputs))
    except ValueError:
        # onnxruntime 1.32 compares a per-channel scale with one number for the bias of some Gemm nodes (converters.md §0.5).
        rewritten = run_passes(model, [GemmToMatMul()])
        if rewritten.notes[0].outcome != "applied":
            raise
        return _quantize_static(rewritten.model, spec, _Samples(samples, inputs))


def _quantize_static(model: onnx.ModelProto, spec: CandidateSpec, samples: _Samples) -> onnx.ModelProto:
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    named = _with_node_names(onnx.shape_inference.infer_shapes(model, data_prop=True))
    exclude = sorted({*spec.exclude, *(head_nodes(named) if spec.head_float else ())})
    kinds = {"int8": QuantType.QInt8, "uint8": QuantType.QUInt8}
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "static.onnx"
        quantize_static(
            named, out, samples, quant_format=QuantFormat.QDQ, op_types_to_quantize=list(spec.op_types) or None,
            per_channel=spec.per_channel, reduce_range=spec.reduce_range, activation_type=kinds[spec.act_dtype],
            weight_type=kinds["int8"], nodes_to_exclude=exclude, calibrate_method=CalibrationMethod[spec.calibration],
            extra_options={"ActivationSymmetric": spec.act_dtype == "int8", "WeightSymmetric": True},
        )  # fmt: skip
        return onnx.load_model_from_string(out.read_bytes())


def head_nodes(model: onnx.ModelProto) -> list[str]:
    """Return the names of the nodes between the last weighted node and each output, that weighted node included.

    A detection head joins boxes (0 to 320) and scores (0 to 1) in one tensor; one int8 scale erases the scores.
    """
    producers = {name: node for node in model.graph.node for name in node.output}
    stack = [value.name for value in model.graph.output]
    seen: set[str] = set()
    while stack:
        node = producers.get(stack.pop())
        if node is None or node.name in seen:
            continue
        seen.add(node.name)
        if node.op_type not in WEIGHTED:
            stack.extend(node.input)
    return sorted(seen)


def _with_node_names(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with a unique name on each node: ORT's exclusion lists work by name, and exporters leave them out."""
    after = onnx.ModelProto()
    after.CopyFrom(model)
    used: set[str] = set()
    for index, node in enumerate(after.graph.node):
        if not node.name or node.name in used:
            node.name = f"{node.op_type}_{index}"
        used.add(node.name)
    return after


def _is_quantized(model: onnx.ModelProto) -> bool:
    marks = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "ConvInteger")
    return any(node.op_type in marks or node.op_type.startswith("DynamicQuantize") for node in model.graph.node)
