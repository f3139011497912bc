"""ONNX model + target runtime -> `.tflite` bytes, or a refusal that names what is in the way."""

from dataclasses import dataclass
from typing import Final

import onnx

from edgefleet_converters.passes.base import Pass, PassNote, run_passes
from edgefleet_converters.tflite.builder import Builder
from edgefleet_converters.tflite.ir import Graph
from edgefleet_converters.tflite.passes.fuse import FuseActivations
from edgefleet_converters.tflite.passes.layout import CancelTransposes
from edgefleet_converters.tflite.passes.tidy import DropUnused, ShareEqual
from edgefleet_converters.tflite.runtimes import TfliteRuntime
from edgefleet_converters.tflite.trace import Tracer
from edgefleet_converters.tflite.writer import write

PASSES: Final[tuple[Pass[Graph], ...]] = (
    DropUnused(), ShareEqual(), CancelTransposes(), ShareEqual(), DropUnused(), FuseActivations(),
)  # fmt: skip


@dataclass(frozen=True)
class Compiled:
    """A compiled model. operators: name -> count. notes: what the passes did."""

    data: bytes
    graph: Graph
    operators: dict[str, int]
    notes: tuple[PassNote, ...]


def compile_model(model: onnx.ModelProto, runtime: TfliteRuntime) -> Compiled:
    """Return the compiled model. Inputs and outputs keep names, order, shapes and types.

    Raises UnsupportedOperatorError when the runtime lacks something, OperatorNotCompiledError when this compiler does,
    DynamicShapeError for open input shapes, ModelTooLargeError.
    """
    builder = Builder(runtime)
    inputs, outputs = Tracer(model, builder).run()
    done = run_passes(builder.finish(inputs, outputs), PASSES)
    return Compiled(write(done.model), done.model, _counts(done.model), done.notes)


def _counts(graph: Graph) -> dict[str, int]:
    counts: dict[str, int] = {}
    for op in graph.ops:
        counts[op.code] = counts.get(op.code, 0) + 1
    return dict(sorted(counts.items()))
