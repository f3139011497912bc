"""ONNX model + target runtime -> `.tflite` bytes, or a refusal that names what is in the way."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import onnx

from edgefleet_converters.errors import ModelTooLargeError, OperatorNotCompiledError
from edgefleet_converters.graph_passes import Pass, PassNote, run_passes
from edgefleet_converters.tflite.builder import Builder
from edgefleet_converters.tflite.ir import Graph, all_ops, in_bodies
from edgefleet_converters.tflite.load import read_facts
from edgefleet_converters.tflite.passes.fuse import FuseActivations
from edgefleet_converters.tflite.passes.layout import CancelTransposes
from edgefleet_converters.tflite.passes.tidy import DropRoundTrips, DropUnused, ShareEqual
from edgefleet_converters.tflite.quantize.source_grids import carried, in_int8
from edgefleet_converters.tflite.runtimes import BY_ADAPTER, TfliteRuntime
from edgefleet_converters.tflite.source_quantization import source_quantization
from edgefleet_converters.tflite.trace import Tracer
from edgefleet_converters.tflite.writer import write

PASSES: Final[tuple[Pass[Graph], ...]] = (
    DropRoundTrips(), DropUnused(), ShareEqual(), CancelTransposes(), ShareEqual(), DropUnused(), FuseActivations(),
)  # fmt: skip

BODY_PASSES: Final[tuple[Pass[Graph], ...]] = (ShareEqual(), DropUnused(), FuseActivations())


@dataclass(frozen=True)
class Compiled:
    """A compiled model. operators: name -> count. notes: what the passes did.

    is_carried: whether it computes in int8 on the grids of its source.
    """

    data: bytes
    graph: Graph
    operators: dict[str, int]
    notes: tuple[PassNote, ...]
    is_carried: bool = False


def compile_model(model: onnx.ModelProto, runtime: TfliteRuntime, *, loops: bool = True) -> Compiled:
    """Return the compiled model. Inputs and outputs keep names, order, shapes and types.

    loops: whether a long sequence may be a WHILE; its body stays float32, so a board of integers has it written out.

    Raises UnsupportedOperatorError when the runtime lacks something, OperatorNotCompiledError when this compiler does,
    DynamicShapeError for open input shapes, ModelTooLargeError.
    """
    builder = Builder(runtime, loops=loops)
    inputs, outputs = Tracer(model, builder).run()
    graph = in_bodies(builder.finish(inputs, outputs), lambda body: run_passes(body, BODY_PASSES).model)
    done = run_passes(graph, PASSES)
    for op in all_ops(done.model):
        # What a pass made must be within the runtime's reach too.
        builder.check(op)
    return Compiled(write(done.model), done.model, _counts(done.model), done.notes)


def compile_as_given(model: onnx.ModelProto, runtime: TfliteRuntime, *, io_dtype: str = "float32") -> Compiled:
    """Return a model compiled on the scales that it brings with it; as `compile_model` where it brings none. Raises as that.

    io_dtype: float32, int8 or uint8: type of inputs and outputs that are float32 in a quantized source.
    """
    source, loops = source_quantization(model), io_dtype == "float32"
    if source is None:
        return compile_model(model, runtime, loops=loops)
    real = compile_model(source.model, runtime, loops=False)
    graph = carried(real.graph, runtime.adapter, source.grids, io_dtype=io_dtype)
    if not in_int8(graph):
        return compile_model(model, runtime, loops=loops)
    graph = DropUnused().apply(graph)[0]
    notes = (*real.notes, PassNote("carry-scales", "applied", f"{in_int8(graph)} operators in int8"))
    return Compiled(write(graph), graph, _counts(graph), notes, is_carried=True)


def compile_step(args: dict[str, Any]) -> dict[str, Any]:
    """Sandbox step. args: {model: ONNX file, runtime: `litert` or `tflite`, io_dtype, out}. Writes `out`; returns its facts with
    `passes` and `is_carried`. io_dtype: of the edges of a model that brings its own scales.

    Raises as `compile_model`, but for ModelTooLargeError, which ends every profile: OperatorNotCompiledError.
    """
    model = onnx.load_model_from_string(Path(args["model"]).read_bytes())
    try:
        compiled = compile_as_given(model, BY_ADAPTER[args["runtime"]], io_dtype=args["io_dtype"])
    except ModelTooLargeError as error:
        # Too large for this compiler is no fault of the source: other profiles are served.
        raise OperatorNotCompiledError(error.message, next_step=error.next_step) from error
    Path(args["out"]).write_bytes(compiled.data)
    notes = [{"name": n.name, "outcome": n.outcome, "reason": n.reason} for n in compiled.notes]
    return read_facts(compiled.data) | {"passes": notes, "is_carried": compiled.is_carried}


def _counts(graph: Graph) -> dict[str, int]:
    counts: dict[str, int] = {}
    for op in all_ops(graph):
        counts[op.code] = counts.get(op.code, 0) + 1
    return dict(sorted(counts.items()))
