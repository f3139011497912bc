"""Make a candidate of the pipeline from a compiled model, or from a float `.tflite` file.

Names in `op_types` and `exclude` of a candidate are those of TFLite: operators, and of excluded ones the tensors they make.
"""

from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

import msgspec
import onnx

from edgefleet_converters.errors import DtypeNotAllowedError, RecipeKeyError, TransformError
from edgefleet_converters.graph_passes import run_passes
from edgefleet_converters.onnx.passes.equalise import Equalise
from edgefleet_converters.recipe import CandidateSpec
from edgefleet_converters.sample_data import read_arrays
from edgefleet_converters.tflite.compile import compile_model
from edgefleet_converters.tflite.file_graph import FileGraph, read_graph
from edgefleet_converters.tflite.ir import Array, Graph, Op, in_bodies
from edgefleet_converters.tflite.load import MAGIC, read_facts
from edgefleet_converters.tflite.quantize.affine import Range
from edgefleet_converters.tflite.quantize.calibration import Calibrator
from edgefleet_converters.tflite.quantize.candidate_recipe import WEIGHTED
from edgefleet_converters.tflite.quantize.graph_rewrites import made_ready
from edgefleet_converters.tflite.quantize.layer_regions import MOVING
from edgefleet_converters.tflite.quantize.static import Form, quantize_static
from edgefleet_converters.tflite.quantize.weights import dynamic_range, float16_weights, weight_only
from edgefleet_converters.tflite.runtimes import BY_ADAPTER
from edgefleet_converters.tflite.writer import write


def candidate_step(args: dict[str, Any]) -> dict[str, Any]:
    """Sandbox step. args: {model: ONNX file or float `.tflite` file, runtime: `litert` or `tflite`, spec, calibration: npz|None,
    seen: folder|None, out}.

    seen: what earlier steps saw of the same samples, and where this one adds to it (`calibration`). Writes the `.tflite` file to
    `out`; returns its facts. Raises TransformError when the recipe changes nothing in the model, RecipeKeyError when it asks for
    what TFLite files are not made with, DtypeNotAllowedError when float32 would be left where none may be, and what compiling
    raises.
    """
    spec = msgspec.convert(args["spec"], CandidateSpec)
    source = float_form(Path(args["model"]).read_bytes(), spec, args["runtime"])
    samples = read_arrays(Path(args["calibration"])) if args["calibration"] else {}
    seen = Path(args["seen"]) if args["seen"] else None
    data = write(stored_as(source, made(source.graph, spec, samples, args["runtime"], seen)))
    if data == write(stored_as(source, source.graph)):
        raise TransformError(
            "no operator of the model has a smaller form by this recipe", next_step="choose another precision or recipe"
        )
    Path(args["out"]).write_bytes(data)
    return read_facts(data)


def made(
    graph: Graph, spec: CandidateSpec, samples: Mapping[str, Array], adapter: str, seen: Path | None = None
) -> Graph:
    """Return the graph that a candidate asks for. samples: calibration by input name, first axis = samples. seen: as for the step."""
    check_known(spec)
    calibrator = Calibrator(samples, adapter, seen)
    if spec.method == "float16":
        return float16_weights(graph)
    if spec.method == "weights":
        return weight_only(
            graph,
            half=frozenset(spec.weights_half),
            kept=frozenset(spec.weights_float),
            means=calibrator.means(graph) if spec.correct_bias else {},
            per_channel=spec.per_channel,
        )
    if spec.method == "dynamic":
        return dynamic_range(graph, per_channel=spec.per_channel, adapter=adapter)
    graph = ready_for(graph, spec)
    means = calibrator.means(graph) if spec.correct_bias else {}
    return static_form(graph, spec, calibrator.ranges(graph, spec.calibration), adapter, means)


def check_known(spec: CandidateSpec) -> None:
    """Raise RecipeKeyError for a key that means nothing for a compiled TFLite file: another model would bear its name."""
    for holds, key, cure in (
        (spec.weight_bits not in (0, 8), f"weight_bits: {spec.weight_bits}", "take weight_bits 0 or 8"),
        (spec.method in ("static", "mixed") and spec.act_dtype == "uint16", "act_dtype: uint16", "take act_dtype int8 or int16"),
        (spec.reduce_range, "reduce_range: true", "leave it out: TFLite kernels sum products in 32 bits, where none saturates"),
        (spec.weight_zero, "weight_zero: true", "leave it out: int8 weights of a TFLite file lie evenly around zero"),
        (spec.half != "float16", f"half: {spec.half}", "leave it out: 16-bit weights of a TFLite file are float16"),
    ):  # fmt: skip
        if holds:
            raise RecipeKeyError(
                f"the candidate {spec.id} asks for {key}, which TFLite files are not made with here",
                next_step=f"{cure}, or leave out --recipe",
            )


def float_form(data: bytes, spec: CandidateSpec, adapter: str) -> FileGraph:
    """Return the float graph that a candidate is made of. data: of an ONNX model, which is compiled, or of a float `.tflite` file.

    Raises RecipeKeyError, NotReadError, and as `compile_model`.
    """
    if data[4:8] != MAGIC:
        return FileGraph(compiled_for(onnx.load_model_from_string(data), spec, adapter), is_half=False)
    check_known(spec)
    if spec.equalise:
        raise RecipeKeyError(
            f"the candidate {spec.id} asks for equalise: true, which is done to ONNX models alone",
            next_step="publish the ONNX model, or leave out --recipe",
        )
    return read_graph(data)


def stored_as(source: FileGraph, graph: Graph) -> Graph:
    """Return a form of a source as it is written: what is float32 in it and was float16 in the source is float16 again."""
    return float16_weights(graph) if source.is_half else graph


def compiled_for(model: onnx.ModelProto, spec: CandidateSpec, adapter: str) -> Graph:
    """Return the float graph that a candidate is made of. Raises RecipeKeyError, and as `compile_model`.

    Evening out channels is work on the float model, and the ONNX side's own pass does it: factors are powers of two, so float
    answers stay the same.
    """
    check_known(spec)
    even = run_passes(model, [Equalise()]).model if spec.equalise else model
    return compile_model(even, BY_ADAPTER[adapter], loops=spec.io_dtype == "float32").graph


def ready_for(graph: Graph, spec: CandidateSpec) -> Graph:
    """Return the graph that a static candidate's ranges are observed on. What the candidate leaves in float32 is not rewritten."""
    return made_ready(graph, float_ops=frozenset(_float_ops(graph, spec)))


def static_form(
    graph: Graph, spec: CandidateSpec, ranges: Mapping[int, Range], adapter: str, means: Mapping[int, Array]
) -> Graph:
    """Return the static candidate of a graph whose ranges and means are known. Raises DtypeNotAllowedError."""
    form = Form(spec.io_dtype, "int16" if spec.act_dtype == "int16" else "int8", spec.per_channel)
    left = frozenset(_float_ops(graph, spec))
    result = quantize_static(graph, ranges, adapter, form, float_ops=left, means=means if spec.correct_bias else {})
    if spec.io_dtype != "float32":
        _check_whole(result)
    if not spec.weight_bits:
        # What a loop does in each round stays float32; its weights are stored in 8 bits all the same.
        return in_bodies(result, lambda body: weight_only(body, per_channel=spec.per_channel))
    return weight_only(result, half=frozenset(spec.weights_half), means=means, per_channel=spec.per_channel)


def _check_whole(graph: Graph) -> None:
    """Raise DtypeNotAllowedError for the first operator that works on float32."""
    for op in graph.ops:
        floats = any(t is not None and t.dtype == "float32" for t in (*op.inputs, *op.outputs))
        if floats and op.code not in ("QUANTIZE", "DEQUANTIZE"):
            raise DtypeNotAllowedError(
                f"{op.source or 'the model'} needs {op.code} on float32 tensors, for it has no int8 form, and the profile takes "
                "none (tensor_dtypes, quant.io_dtype)",
                next_step="replace it in the model, or choose a profile that takes float32 tensors",
            )


def _float_ops(graph: Graph, spec: CandidateSpec) -> set[int]:
    """Return the ids of operators that the candidate leaves in float32."""
    left = {id(op) for op in graph.ops if spec.op_types and op.code not in spec.op_types}
    left |= {id(op) for op in graph.ops if op.outputs[0].name in spec.exclude}
    left |= head_ops(graph) if spec.head_float else set()
    return left | moved_floats(graph, left) if spec.exclude else left


def moved_floats(graph: Graph, left: Set[int]) -> set[int]:
    """Return the ids of operators that only join or move, and are given a float32 result: to round it there gains nothing.

    left: ids of the operators in float32. On a YOLO net this was most of what a search lost with many layers out.
    """
    floats = set(left)
    made = {id(tensor) for op in graph.ops if id(op) in floats for tensor in op.outputs}
    for op in graph.ops:
        if op.code in MOVING and id(op) not in floats and any(id(tensor) in made for tensor in op.inputs):
            floats.add(id(op))
            made |= {id(tensor) for tensor in op.outputs}
    return floats - set(left)


def head_ops(graph: Graph) -> set[int]:
    """Return the ids of the operators between the last weighted one and each output, that one included.

    A detection head joins boxes (0 to 320) and scores (0 to 1) in one tensor; one int8 scale erases the scores.
    """
    maker: dict[int, Op] = {id(t): op for op in graph.ops for t in op.outputs}
    waiting = [id(t) for t in graph.outputs]
    seen: set[int] = set()
    while waiting:
        op = maker.get(waiting.pop())
        if op is None or id(op) in seen:
            continue
        seen.add(id(op))
        if op.code not in WEIGHTED:
            waiting.extend(id(t) for t in op.inputs if t is not None)
    return seen
