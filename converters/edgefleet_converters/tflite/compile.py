"""ONNX model + target runtime -> `.tflite` bytes, or a refusal that names what is in the way."""

from dataclasses import dataclass
from typing import Any

import onnx

from edgefleet_converters.errors import OperatorNotCompiledError
from edgefleet_converters.passes.base import PassNote
from edgefleet_converters.tflite.builder import Builder
from edgefleet_converters.tflite.ir import Graph
from edgefleet_converters.tflite.runtimes import TfliteRuntime
from edgefleet_converters.tflite.trace import Tracer
from edgefleet_converters.tflite.writer import write


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
    graph = builder.finish(inputs, outputs)
    return Compiled(write(graph), graph, _counts(graph), ())


def _counts(graph: Graph) -> dict[str, int]:
    counts: dict[str, int] = {}
    for op in graph.ops:
        counts[op.code] = counts.get(op.code, 0) + 1
    return dict(sorted(counts.items()))


__all__ = ["Any", "Compiled", "OperatorNotCompiledError", "compile_model"]
