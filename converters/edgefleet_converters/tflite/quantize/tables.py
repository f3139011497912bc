"""Functions of one value as tables: any chain of elementwise float operators on one int8 tensor has at most 256 results.

A chain ends where something else reads it. It is run once, in the runtime itself, on all values that its input can hold; in the
file stand CAST, ADD and GATHER. A chain becomes a table when one of its operators has no int8 kernel, or when it is long.

8 bits of input are too few where the function is steep (a logarithm near zero). Where the input exists as float32, the table
then has up to 4,096 entries and the input is stored in 16 bits as its index; where it does not, the chain stays float32.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from edgefleet_converters.tflite.ir import Array, Graph, Op, Quantization, Tensor, constant
from edgefleet_converters.tflite.quantize import affine
from edgefleet_converters.tflite.quantize.affine import Range
from edgefleet_converters.tflite.quantize.kernels import kernel_of
from edgefleet_converters.tflite.writer import write
from edgefleet_runtime.port import load

TABLE: Final = "TABLE"
"""Code of the stand-in that `static` turns into real operators."""
LEVELS: Final = (256, 1024, 4096)
_ELEMENTWISE: Final = frozenset({
    "ABS", "ADD", "ATAN2", "CAST", "CEIL", "COS", "DIV", "ELU", "EQUAL", "EXP", "FLOOR", "FLOOR_MOD", "GELU", "GREATER",
    "GREATER_EQUAL", "HARD_SWISH", "LEAKY_RELU", "LESS", "LESS_EQUAL", "LOG", "LOGICAL_AND", "LOGICAL_NOT", "LOGICAL_OR",
    "LOGISTIC", "MAXIMUM", "MINIMUM", "MUL", "NEG", "NOT_EQUAL", "POW", "RELU", "RELU6", "ROUND", "RSQRT", "SELECT_V2", "SIGN",
    "SIN", "SQRT", "SQUARE", "SQUARED_DIFFERENCE", "SUB", "TANH",
})  # fmt: skip
_LONG: Final = 4
"""A chain of so many int8 kernels costs more time and more rounding than a table."""
_MOST_OPS: Final = 256
"""An unrolled loop may be a chain of thousands; each of its results would be a table of its own."""
_FASTER_BELOW: Final[Mapping[str, int]] = {"litert": 1 << 15}
"""Runtime -> elements beyond which its own float32 and int8 kernels beat a table: 245,760 elements took 0.58 ms from a table and
0.03 ms in four int8 kernels, or in float32 with both conversions, in LiteRT; 0.86, 6.4 and 10.8 ms in tflite-runtime 2.14."""
_STEEP: Final = 3.0
"""Steps of the result that one step of the input may be: half of that is the largest error."""


@dataclass(frozen=True)
class Chain:
    """Operators of one value, in order. source, result: float32 of one shape."""

    source: Tensor
    result: Tensor
    ops: tuple[Op, ...]

    def values(self, points: Array, adapter: str) -> Array:
        """Return the chain's results for float32 points, computed by the runtime. Raises ModelLoadError, RunError."""
        size = len(points)
        made: dict[int, Tensor] = {id(self.source): Tensor("x", "float32", (size,))}
        ops: list[Op] = []
        for number, op in enumerate(self.ops):
            result = op.outputs[0]
            shape = (size,) if result.shape == self.source.shape else result.shape
            made[id(result)] = Tensor(f"t{number}", result.dtype, shape)
            inputs = tuple(None if t is None else made.get(id(t)) or _flat(t) for t in op.inputs)
            ops.append(replace(op, inputs=inputs, outputs=(made[id(result)],)))
        end = replace(made[id(self.result)], name="y")
        ops[-1] = replace(ops[-1], outputs=(end,))
        graph = Graph((made[id(self.source)],), (end,), tuple(ops))
        with np.errstate(all="ignore"):
            return np.asarray(load(adapter, write(graph)).run({"x": points.astype(np.float32)})["y"])


def _flat(tensor: Tensor) -> Tensor:
    return constant(tensor.name, tensor.constant.reshape(-1))


def is_slow(chain: Chain, adapter: str) -> bool:
    """Say whether the chain's own float32 operators are faster than a table; they round once too."""
    return math.prod(chain.source.shape) > _FASTER_BELOW.get(adapter, math.inf)


def chains(graph: Graph, adapter: str, float_ops: frozenset[int]) -> list[Chain]:
    """Return the chains of a graph that are worth a table, in the order of their results."""
    root: dict[int, Tensor] = {}
    maker: dict[int, Op] = {}
    for op in graph.ops:
        found = _root(op, root) if id(op) not in float_ops else None
        if found is not None:
            root[id(op.outputs[0])] = found
            maker[id(op.outputs[0])] = op
    left = {id(t) for t in graph.outputs}
    for op in graph.ops:
        own = root.get(id(op.outputs[0]))
        left |= {id(t) for t in op.inputs if t is not None and root.get(id(t)) is not own}
    ends = [op.outputs[0] for op in graph.ops if id(op.outputs[0]) in root and id(op.outputs[0]) in left]
    if any(t.dtype != "float32" for t in ends):
        # A chain whose choice leaves it (a mask) is a decision, not a function of a value.
        bad = {id(root[id(t)]) for t in ends if t.dtype != "float32"}
        ends = [t for t in ends if id(root[id(t)]) not in bad]
    order = {key: number for number, key in enumerate(maker)}
    made = [Chain(root[id(end)], end, _between(end, maker, order)) for end in ends]
    return [chain for chain in made if _worth(chain, adapter)]


def _root(op: Op, root: Mapping[int, Tensor]) -> Tensor | None:
    """Return the tensor that an elementwise operator is a function of, None where there is no single one."""
    if op.code not in _ELEMENTWISE or len(op.outputs) != 1:
        return None
    found: Tensor | None = None
    for tensor in op.inputs:
        if tensor is None:
            return None
        if tensor.data is not None:
            if tensor.data.size != 1:
                return None
            continue
        own = root.get(id(tensor), tensor)
        if tensor.shape != op.outputs[0].shape or (found is not None and own is not found):
            return None
        found = own
    return found if found is not None and found.dtype == "float32" else None


def _between(end: Tensor, maker: Mapping[int, Op], order: Mapping[int, int]) -> tuple[Op, ...]:
    """Return the operators that make `end` of its root, in order; none when there are more than `_MOST_OPS`."""
    found: dict[int, Op] = {}
    waiting: list[Tensor | None] = [end]
    while waiting:
        key = id(waiting.pop())
        op = maker.get(key)
        if op is None or key in found:
            continue
        found[key] = op
        if len(found) > _MOST_OPS:
            return ()
        waiting.extend(op.inputs)
    return tuple(maker[key] for key in sorted(found, key=order.__getitem__))


def _worth(chain: Chain, adapter: str) -> bool:
    lacking = any(kernel_of(op, adapter) is None and op.outputs[0].dtype == "float32" for op in chain.ops)
    return lacking or len(chain.ops) >= _LONG


def levels_of(chain: Chain, seen: Range, result: Quantization, adapter: str, *, is_float: bool) -> int | None:
    """Return how many entries the chain's table needs, None where it is too steep for any. seen: range of the input.

    is_float: whether the input exists as float32, so that it may be stored in more than 8 bits.
    """
    for levels in LEVELS if is_float else LEVELS[:1]:
        points = np.linspace(seen[0], seen[1], levels)
        values = chain.values(points, adapter)
        if np.isfinite(values).all() and np.abs(np.diff(values)).max(initial=0.0) <= _STEEP * result.scale[0]:
            return levels
    return None


def index_scale(seen: Range, levels: int) -> Quantization:
    """Return the 16-bit scale that spreads a range over `levels` entries; the stored number of zero is 0."""
    low, high = min(seen[0], 0.0), max(seen[1], 0.0)
    return Quantization((float(np.float32((high - low) / (levels - 1))),), (0,))


def entries(chain: Chain, points: Array, result: Quantization, adapter: str) -> Array:
    """Return int8 of the chain's results at float32 points. What is no number is stored as 0."""
    values = chain.values(points, adapter)
    held = np.clip(np.nan_to_num(values.astype(np.float64), nan=0.0), -1e30, 1e30)
    return affine.stored(held, result)


def looked_up(op: Op, index: Tensor, first: int, numbers: Array, result: Quantization) -> tuple[list[Op], Tensor]:
    """Return the operators of out = numbers[index - first], and out as int8. op: whose first output that stands for."""
    out = op.outputs[0]
    wide, place = (Tensor(f"{out.name}/{what}", "int32", index.shape) for what in ("wide", "place"))
    table = replace(constant(f"{out.name}/table", numbers), quantization=result)
    made = Tensor(f"{out.name}_int8", "int8", out.shape, quantization=result)
    shift = constant(f"{out.name}/first", np.array(-first, np.int32))
    ops = [
        Op("CAST", (index,), (wide,), {"in_data_type": index.dtype, "out_data_type": "int32"}, op.source),
        Op("ADD", (wide, shift), (place,), {"fused_activation_function": 0}, op.source),
    ]
    if index.dtype != "int8":
        # 16 bits hold more numbers than the table has entries; 8 bits do not.
        for code, limit in (("MAXIMUM", 0), ("MINIMUM", len(numbers) - 1)):
            kept = replace(place, name=f"{place.name}/{code.lower()}")
            ops.append(Op(code, (place, constant(f"{kept.name}/limit", np.array(limit, np.int32))), (kept,)))
            place = kept
    ops.append(Op("GATHER", (table, place), (made,), {"axis": 0, "batch_dims": 0}, op.source))
    return ops, made


def with_tables(graph: Graph, found: list[Chain]) -> tuple[Graph, dict[int, Chain]]:
    """Return the graph with a stand-in for each chain, and id of stand-in -> chain. What nobody reads then is left out."""
    by_result = {id(chain.result): chain for chain in found}
    ops = [
        Op(TABLE, (by_result[id(op.outputs[0])].source,), op.outputs, {}, op.source)
        if id(op.outputs[0]) in by_result
        else op
        for op in graph.ops
    ]
    needed = {id(t) for t in graph.outputs}
    kept: list[Op] = []
    for op in reversed(ops):
        if any(id(t) in needed for t in op.outputs):
            kept.append(op)
            needed |= {id(t) for t in op.inputs if t is not None}
    kept.reverse()
    return replace(graph, ops=tuple(kept)), {id(op): by_result[id(op.outputs[0])] for op in kept if op.code == TABLE}
