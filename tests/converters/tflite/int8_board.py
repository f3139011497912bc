"""The scoreboard of full-integer int8: a backend test that passes in float32, quantized on its own inputs, and run again.

It passes when each float output is within two steps of the scale it is stored with (of the float result's own range in 256 steps
where the last operator stays float32), and each other output is equal.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from edgefleet_converters.tflite.compile import compile_model
from edgefleet_converters.tflite.ir import Graph, Op
from edgefleet_converters.tflite.quantize.graph_rewrites import made_ready
from edgefleet_converters.tflite.quantize.ranges import observe
from edgefleet_converters.tflite.quantize.static import quantize_static
from edgefleet_converters.tflite.runtimes import TfliteRuntime
from edgefleet_converters.tflite.writer import write
from edgefleet_protocol.errors import EdgefleetError
from edgefleet_runtime.port import load
from tests.converters.tflite.board import Case, _array, judge

Array = npt.NDArray[Any]

INT8_OUTCOMES: Final = ("int8", "moved", "float", "integers", "not_float_passing", "failed", "wrong", "aborted")
"""int8: right, with an operator that computes in int8. moved: right, int8 is only moved. float: right, nothing in int8.
integers: no float32 tensor at all."""
STEPS: Final = 2.0
MOVING: Final = frozenset({
    "BROADCAST_TO", "CONCATENATION", "DEPTH_TO_SPACE", "GATHER_ND", "MIRROR_PAD", "PACK", "PAD", "PADV2", "RESHAPE",
    "RESIZE_NEAREST_NEIGHBOR", "REVERSE_V2", "SELECT_V2", "SLICE", "SPACE_TO_DEPTH", "STRIDED_SLICE", "TILE", "TRANSPOSE",
})  # fmt: skip
"""Operators that hand stored numbers on. GATHER is one unless its values are a constant: then it looks a function up."""


def judge_int8(case: Case, runtime: TfliteRuntime) -> tuple[str, str]:
    """Quantize and run a case in this process. Returns (outcome, detail)."""
    outcome, detail = judge(case, runtime)
    if outcome != "pass":
        return "not_float_passing", detail
    graph = made_ready(compile_model(case.model, runtime).graph)
    if not any(t.dtype == "float32" for op in graph.ops for t in op.outputs):
        return "integers", ""
    names = [t.name for t in graph.inputs]
    named = [dict(zip(names, map(_array, inputs), strict=True)) for inputs, _ in case.sets]
    try:
        made = quantize_static(graph, observe(graph, lambda _model: named, runtime.adapter), runtime.adapter)
        model = load(runtime.adapter, write(made))
    except EdgefleetError as error:
        return "failed", f"{codes(made) if 'made' in locals() else ''} {error.message}"
    small = [op for op in made.ops if op.code not in ("QUANTIZE", "DEQUANTIZE") and _takes_int8(op)]
    kind = "int8" if any(map(_computes, small)) else "moved" if small else "float"
    for arrays, (_, outputs) in zip(named, case.sets, strict=True):
        try:
            got = list(model.run(arrays).values())
        except EdgefleetError as error:
            return "failed", f"{codes(made)} {error.message}"
        problem = _beyond(made, got, [_array(a) for a in outputs])
        if problem:
            return "wrong", f"{codes(made)} {problem}"
    return kind, codes(made)


def _takes_int8(op: Op) -> bool:
    tensors = [t for t in (*op.inputs, *op.outputs) if t is not None]
    return any(t.dtype == "int8" and t.quantization for t in tensors)


def _computes(op: Op) -> bool:
    first = op.inputs[0]
    if op.code == "GATHER":
        return first is not None and first.data is not None
    return op.code not in MOVING


def codes(graph: Graph) -> str:
    """Return the operators in order, those in int8 with an 8."""
    return ",".join(op.code + ("8" if op.outputs[0].dtype == "int8" else "") for op in graph.ops)


def _beyond(graph: Graph, got: list[Array], wanted: list[Array]) -> str:
    """Return what is further off than two steps; empty when nothing is."""
    stored = {id(op.outputs[0]): op.inputs[0] for op in graph.ops if op.code == "DEQUANTIZE"}
    for index, (tensor, a, b) in enumerate(zip(graph.outputs, got, wanted, strict=True)):
        if a.dtype != b.dtype or a.shape != b.shape:
            return f"output {index} is {a.dtype}{list(a.shape)}"
        if b.dtype.kind != "f":
            if not np.allclose(a, b, rtol=1e-3, atol=1e-4, equal_nan=b.dtype.kind == "c"):
                return f"output {index} differs"
            continue
        source = stored.get(id(tensor))
        held = source.quantization if source is not None else None
        finite = b[np.isfinite(b)]
        span = max(0.0, float(finite.max(initial=0.0))) - min(0.0, float(finite.min(initial=0.0)))
        step = held.scale[0] if held is not None else span / 255
        same = (a == b) | (np.isnan(a) & np.isnan(b))
        with np.errstate(invalid="ignore"):
            off = np.where(same, 0.0, np.abs(a.astype(np.float64) - b))
        # The float tolerance of the test itself is on top: a value of the size of a step's rounding error is no error.
        slack = 1e-4 + 1e-3 * (np.abs(b) if held is None else 0.0)
        beyond = ~same & ~(off <= STEPS * step * 1.001 + slack)
        if beyond.any():
            return f"output {index} is {float(np.nanmax(off)) / max(step, 1e-12):.1f} steps off at {int(beyond.sum())}"
    return ""
