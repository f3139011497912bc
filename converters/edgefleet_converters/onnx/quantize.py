"""Make one candidate from a simplified model: float16, dynamic int8 or static int8 (QDQ). Runs in a sandboxed child.

What is done is data (`recipe.CandidateSpec`), so a bundle can carry it. The defaults of the tools destroy real models
(docs/explanation/converting.md); which operators are quantised, and that heads can stay float, is therefore part of the spec.
"""

import tempfile
from pathlib import Path
from typing import Any, Final

import msgspec
import onnx
from onnx import TensorProto

from edgefleet_converters.errors import TransformError
from edgefleet_converters.graph_passes import run_passes
from edgefleet_converters.onnx.block_weights import stored_in_blocks
from edgefleet_converters.onnx.calibrate import Calibration, quantizable_operators
from edgefleet_converters.onnx.load import facts_of, operators_of, opset_of, parse, serialise
from edgefleet_converters.onnx.passes.correct_bias import CORRECTED, CorrectBias
from edgefleet_converters.onnx.passes.fold import canonical
from edgefleet_converters.onnx.passes.gemm_to_matmul import GemmToMatMul
from edgefleet_converters.onnx.passes.sort_nodes import sort_nodes
from edgefleet_converters.onnx.passes.spell_softmax import SpellSoftmax
from edgefleet_converters.onnx.walk import all_graphs, all_nodes
from edgefleet_converters.onnx.weights import store_weights, weights_of
from edgefleet_converters.onnx.word_tables import read_from_int8
from edgefleet_converters.recipe import CandidateSpec

WEIGHTED: Final = ("Conv", "ConvTranspose", "MatMul", "Gemm")
RECURRENT: Final = "LSTM"
"""Has no static form; onnxruntime's own DynamicQuantizeLSTM ranges its inputs at run time (0.35 to 0.8 of float32's time)."""
_MOVES: Final = frozenset({"Flatten", "Identity", "MaxPool", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"})
_DYNAMIC_ALL: Final = ("Conv", "MatMul", "Gemm", "Gather", "LSTM", "Attention", "EmbedLayerNormalization")
_PER_CHANNEL_OPSET: Final = 13
_INFERRED: Final = "onnx.infer"


def candidate_step(args: dict[str, Any]) -> dict[str, Any]:
    """Sandbox step. args: {model, spec, calibration: path of a `Calibration` or None, out}.

    model: the prepared model where a calibration is given (`onnx.prepare`), else the simplified one. Writes `out`; returns
    `{facts}`. Raises TransformError when the recipe cannot be applied.
    """
    spec = msgspec.convert(args["spec"], CandidateSpec)
    model = parse(Path(args["model"]).read_bytes())
    calibration = Calibration.load(Path(args["calibration"])) if args["calibration"] else None
    made = candidate(model, spec, calibration)
    Path(args["out"]).write_bytes(serialise(made))
    return {"facts": facts_of(made)}


def candidate(model: onnx.ModelProto, spec: CandidateSpec, calibration: Calibration | None) -> onnx.ModelProto:
    """Return the model that `spec` makes of a simplified one. calibration: needed by method static and by correct_bias.

    Raises TransformError when the recipe cannot be applied.
    """
    source = model
    if spec.correct_bias and calibration is not None:
        model = bias_corrected(model, spec, calibration)
    if spec.method == "float16":
        made = _float16(model)
    elif spec.method == "dynamic":
        made = _dynamic(_in_blocks(model, spec), spec)
    elif spec.method == "static":
        assert calibration is not None
        if spec.op_types or spec.head_float:  # else every operator is to be in integers, which Softmax has a kernel for
            model = run_passes(model, [SpellSoftmax()]).model
        made = quantized(model, spec, calibration)
        if RECURRENT in spec.op_types:
            made = _ranged_at_run_time(made, spec, [RECURRENT])
    else:
        made = model
    if spec.precision == "int4-weights":
        made = run_passes(made, [GemmToMatMul()]).model  # the 4-bit product takes the place of MatMul
    if spec.weight_bits:
        made = store_weights(
            made, spec.weight_bits, half=frozenset(spec.weights_half), kept=frozenset(spec.weights_float),
            whole=spec.half == "int16", zero=spec.weight_zero,
        )  # fmt: skip
    if spec.precision == "int4-weights" and not any(node.op_type == "MatMulNBits" for node in all_nodes(made)):
        raise TransformError(
            "no product of the model has a stored matrix of its own, which 4 bits are for",
            next_step="use --precision int8-weights",
        )
    made = canonical(made, like=source)
    if spec.method not in ("float16", "none") and operators_of(made) == operators_of(source):
        raise TransformError(
            "no node of the model was quantised by this recipe", next_step="choose another precision or recipe"
        )
    return made


def bias_corrected(model: onnx.ModelProto, spec: CandidateSpec, calibration: Calibration) -> onnx.ModelProto:
    """Return the model with biases that make up for the rounding of the weights that `spec` rounds."""
    whole = {*spec.weights_half, *spec.weights_float}
    levels = {w.name: 127 for w in weights_of(model) if w.name not in whole} if spec.weight_bits in (4, 8) else {}
    static: set[str] = set()
    if spec.method == "static":
        left, narrow = excluded(model, spec), 63 if spec.reduce_range else 127
        static = {
            node.input[1] for node in model.graph.node if node.op_type in CORRECTED and node.name not in left
            and (not spec.op_types or node.op_type in spec.op_types)
        }  # fmt: skip
        levels |= dict.fromkeys(static, narrow)
    one_scale = set() if spec.per_channel else static
    return run_passes(model, [CorrectBias(calibration.means, levels, one_scale)]).model


def _float16(model: onnx.ModelProto) -> onnx.ModelProto:
    from onnxruntime.transformers.float16 import convert_float_to_float16

    made: onnx.ModelProto = convert_float_to_float16(model, keep_io_types=True)
    return made


def _in_blocks(model: onnx.ModelProto, spec: CandidateSpec) -> onnx.ModelProto:
    """Return the model with the products that `spec` stores in blocks. Raises TransformError when there is none."""
    if spec.blocks == "none":
        return model
    made = stored_in_blocks(run_passes(model, [GemmToMatMul()]).model, 8, narrowing=spec.blocks == "narrowing")
    if operators_of(made).get("com.microsoft::MatMulNBits", 0) == operators_of(model).get(
        "com.microsoft::MatMulNBits", 0
    ):
        raise TransformError(
            "no product of the model has a stored matrix for 8 bits in blocks", next_step="use --precision int8-weights"
        )
    return made


def _dynamic(model: onnx.ModelProto, spec: CandidateSpec) -> onnx.ModelProto:
    if spec.blocks == "all":
        return model
    named = with_node_names(run_passes(model, [GemmToMatMul()]).model)
    present = {node.op_type for node in all_nodes(named)}
    wanted = [op for op in (spec.op_types or _DYNAMIC_ALL) if op in present]
    if not wanted:
        raise TransformError(
            f"the model has no {', '.join(spec.op_types or _DYNAMIC_ALL)}",
            next_step="choose another precision or recipe",
        )
    return _ranged_at_run_time(named, spec, wanted)


def _ranged_at_run_time(model: onnx.ModelProto, spec: CandidateSpec, operators: list[str]) -> onnx.ModelProto:
    """Return the model with these operators in int8, for which the runtime ranges their inputs on each run."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    options = {"DefaultTensorType": TensorProto.FLOAT, "EnableSubgraph": any(depth for _, depth in all_graphs(model))}
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "dynamic.onnx"
        quantize_dynamic(
            model, out, op_types_to_quantize=operators, per_channel=spec.per_channel, reduce_range=spec.reduce_range,
            weight_type=QuantType.QInt8, nodes_to_exclude=list(spec.exclude), extra_options=options,
        )  # fmt: skip
        made = onnx.load_model_from_string(out.read_bytes())
    sort_nodes(made)
    read_from_int8(made)
    return made


def quantized(model: onnx.ModelProto, spec: CandidateSpec, calibration: Calibration) -> onnx.ModelProto:
    """Return the QDQ model that `spec` makes of a prepared one, whose nodes have names and whose shapes are known.

    Raises TransformError and what onnxruntime raises.
    """
    from onnxruntime.quantization import QuantType

    from edgefleet_converters.onnx.qdq import quantizer_of

    if spec.per_channel and opset_of(model) < _PER_CHANNEL_OPSET:
        raise TransformError(
            f"per-channel int8 needs opset {_PER_CHANNEL_OPSET}, the model has {opset_of(model)} and could not be upgraded",
            next_step="export the model with opset 17",
        )
    kinds = {
        "int8": QuantType.QInt8, "uint8": QuantType.QUInt8, "int16": QuantType.QInt16, "uint16": QuantType.QUInt16,
    }  # fmt: skip
    own = onnx.ModelProto()
    own.CopyFrom(model)
    # Shapes are there already; without this word the quantizer writes the model to disk and infers them again.
    own.metadata_props.append(onnx.StringStringEntryProto(key=_INFERRED, value="onnxruntime.quant"))
    quantizer = quantizer_of(
        own, spec.per_channel, spec.reduce_range, kinds["int8"], kinds[spec.act_dtype], calibration.tensors_data(), [],
        sorted(excluded(model, spec)), [op for op in spec.op_types if op != RECURRENT] or quantizable_operators(),
        {"ActivationSymmetric": spec.act_dtype in ("int8", "int16"), "WeightSymmetric": True},
    )  # fmt: skip
    quantizer.quantize_model()
    made: onnx.ModelProto = quantizer.model.model
    sort_nodes(made)  # it appends the nodes of inputs behind those that read them
    kept = [entry for entry in made.metadata_props if entry.key != _INFERRED]
    del made.metadata_props[:]
    made.metadata_props.extend(kept)
    return made


def excluded(model: onnx.ModelProto, spec: CandidateSpec) -> set[str]:
    """Return the names of the nodes that a static quantization leaves alone."""
    return {*spec.exclude, *(head_nodes(model) if spec.head_float else ()), *_before_subgraphs(model)}


def _before_subgraphs(model: onnx.ModelProto) -> set[str]:
    """Return the names of the nodes whose results a subgraph reads, also behind nodes that only move values.

    onnxruntime 1.32 moves quantized values along such nodes, and ends its process where a subgraph comes behind them.
    """
    producers = {name: node for node in model.graph.node for name in node.output}
    inner = (node for node in all_nodes(model) if not any(producers.get(name) is node for name in node.output))
    stack = [name for node in inner for name in node.input]
    found: set[str] = set()
    while stack:
        node = producers.get(stack.pop())
        if node is not None and node.name not in found:
            found.add(node.name)
            stack.extend(node.input[:1] if node.op_type in _MOVES else ())
    return found


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


def with_node_names(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with a unique name on each node, in subgraphs too: onnxruntime's exclusion lists work by name."""
    after = onnx.ModelProto()
    after.CopyFrom(model)
    used: set[str] = set()
    for index, node in enumerate(all_nodes(after)):
        if not node.name or node.name in used:
            node.name = f"{node.op_type}_{index}"
        used.add(node.name)
    return after
