"""Which operators stay float32 because 8 bits would ruin what is made of their values.

Each walk goes back from such a place to products with weights: what those make is rounded anyway.
"""

from collections.abc import Iterable, Mapping
from typing import Final

from edgefleet_converters.tflite.ir import Graph, Op, Quantization
from edgefleet_converters.tflite.quantize.candidate_recipe import WEIGHTED

_DECIDING: Final = (
    "FLOOR", "CEIL", "ROUND", "SIGN", "FLOOR_DIV", "FLOOR_MOD", "ARG_MAX", "ARG_MIN", "TOPK_V2", "UNIQUE", "EQUAL",
    "NOT_EQUAL", "LESS", "LESS_EQUAL", "GREATER", "GREATER_EQUAL", "NON_MAX_SUPPRESSION_V4", "BITCAST",
)  # fmt: skip
_MOVING: Final = ("RESHAPE", "TRANSPOSE", "SLICE", "STRIDED_SLICE")
_CANCELLING: Final = 4.0
"""A sum whose operands are so many times coarser than its result has lost two bits of it."""


def before_decisions(graph: Graph) -> set[int]:
    """Return the ids of operators whose values are turned into indices, counts or choices; they must stay float32.

    Rounded to 256 steps, a coordinate picks another pixel. Without the end at products a classifier that ends in ARG_MAX would
    stay float32 as a whole.
    """
    seen = _before(graph, (op for op in graph.ops if _decides(op)))
    rounded = {id(op.outputs[0]) for op in graph.ops if op.code in WEIGHTED and id(op) not in seen}
    for op in graph.ops:
        # What a product has rounded is moved as it is stored: nothing is lost by it.
        if op.code in _MOVING and id(op) in seen and id(op.inputs[0]) in rounded:
            rounded.add(id(op.outputs[0]))
            seen.discard(id(op))
    return seen


def before_cancellation(graph: Graph, scales: Mapping[int, Quantization]) -> set[int]:
    """Return the ids of sums whose operands nearly cancel, as in E(x²) - E(x)², and of what makes the operands."""

    def cancels(op: Op) -> bool:
        if op.code not in ("ADD", "SUB") or id(op.outputs[0]) not in scales:
            return False
        result = scales[id(op.outputs[0])].scale[0]
        held = [scales[id(t)].scale[0] for t in op.inputs if t is not None and t.data is None and id(t) in scales]
        return bool(held) and max(held) > _CANCELLING * result

    found = [op for op in graph.ops if cancels(op)]
    return _before(graph, found) | {id(op) for op in found}


def _before(graph: Graph, ends: Iterable[Op]) -> set[int]:
    maker = {id(t): op for op in graph.ops for t in op.outputs}
    waiting = [t for op in ends for t in op.inputs if t is not None]
    seen: set[int] = set()
    while waiting:
        op = maker.get(id(waiting.pop()))
        if op is None or id(op) in seen or op.code in WEIGHTED:
            continue
        seen.add(id(op))
        waiting.extend(t for t in op.inputs if t is not None and t.dtype == "float32")
    return seen


def _decides(op: Op) -> bool:
    first = op.inputs[0] if op.inputs else None
    if op.code == "CAST":
        return first is not None and first.dtype == "float32" and not op.outputs[0].dtype.startswith("float")
    return op.code in _DECIDING
