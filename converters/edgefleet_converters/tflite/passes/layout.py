"""Move transposes down the graph until they meet and cancel.

Each convolution is compiled with a transpose before and after it. What lies between two convolutions mostly works element by
element, so the transpose after the first can be done after those operators instead, where it meets the one before the second:
together they are nothing. The same holds for joins, padding, slices and reductions, whose axes are renamed, and for reshapes that
drop or add axes of one.
"""

from dataclasses import replace
from typing import Final

import numpy as np

from edgefleet_converters.tflite.ir import Array, Graph, Op, Option, Shape, Tensor, constant
from edgefleet_converters.tflite.passes.contract import broken, count

ELEMENTWISE: Final = {
    "ABS", "ADD", "ATAN2", "CAST", "CEIL", "COS", "DEQUANTIZE", "DIV", "ELU", "EQUAL", "EXP", "FLOOR", "FLOOR_DIV", "FLOOR_MOD", "GELU",
    "GREATER", "GREATER_EQUAL", "HARD_SWISH", "LEAKY_RELU", "LESS", "LESS_EQUAL", "LOG", "LOGICAL_AND", "LOGICAL_NOT",
    "LOGICAL_OR", "LOGISTIC", "MAXIMUM", "MINIMUM", "MUL", "NEG", "NOT_EQUAL", "POW", "QUANTIZE", "RELU", "RELU6", "ROUND", "RSQRT",
    "SELECT_V2", "SIGN", "SIN", "SQRT", "SQUARE", "SQUARED_DIFFERENCE", "SUB", "TANH",
}  # fmt: skip
_EVERYWHERE: Final = {"float32", "int32", "int64", "uint8", "int8", "bool"}
"""Types that TRANSPOSE moves in every runtime: a transpose is never moved behind a CAST to another."""
_REDUCTIONS: Final = {"SUM", "MEAN", "REDUCE_MAX", "REDUCE_MIN", "REDUCE_PROD"}


class CancelTransposes:
    """Case 1: two transposes in a row become one, or none. Case 2: an operator that works on any order of axes is done before
    the transpose of its input. Case 3: everything else stays. A result with more transposes than before is thrown away.
    """

    name = "cancel-transposes"
    required = False

    def requires(self, model: Graph) -> str:
        """There are transposes."""
        return "" if count(model, "TRANSPOSE") else "the graph has no transposes"

    def apply(self, model: Graph) -> tuple[Graph, bool]:
        """Return the graph with transposes moved down."""
        walk = _Walk(model)
        for op in model.ops:
            walk.visit(op)
        return replace(model, ops=tuple(walk.ops)), True

    def ensures(self, before: Graph, after: Graph) -> str:
        """Inputs, outputs and order are kept, and there are no more transposes than before."""
        from edgefleet_converters.tflite.passes.tidy import DropUnused, ShareEqual

        used = DropUnused().apply(ShareEqual().apply(after)[0])[0]
        if count(used, "TRANSPOSE") > count(before, "TRANSPOSE"):
            return "there would be more transposes than before"
        return broken(before, after)


class _Walk:
    """One walk over a graph. `turned`: tensor -> (what it is a transpose of, the permutation)."""

    def __init__(self, graph: Graph) -> None:
        self.ops: list[Op] = []
        self._outputs = {id(t) for t in graph.outputs}
        self._turned: dict[int, tuple[Tensor, Shape]] = {}
        self._instead: dict[int, Tensor] = {}
        self._constants: dict[str, dict[tuple[Shape, bytes], Tensor]] = {}
        self._names = 0

    def visit(self, op: Op) -> None:
        """Append the operator, moved before a transpose where it can be."""
        op = replace(op, inputs=tuple(self._instead.get(id(t), t) if t is not None else None for t in op.inputs))
        perm = op.inputs[1].data if op.code == "TRANSPOSE" and op.inputs[1] is not None else None
        if perm is not None:
            self._transpose(op, tuple(int(p) for p in perm))
        elif not self._sunk(op):
            self.ops.append(op)

    def _transpose(self, op: Op, perm: Shape) -> None:
        source, result = op.inputs[0], op.outputs[0]
        assert source is not None
        if id(source) in self._turned:
            source, first = self._turned[id(source)]
            perm = tuple(first[p] for p in perm)
        self._emit_transposed(source, perm, result, op)

    def _emit_transposed(self, source: Tensor, perm: Shape, result: Tensor, op: Op) -> None:
        """Make `result` the transpose of `source`; nothing is emitted when that is `source` itself."""
        if perm == tuple(range(len(perm))) and id(result) not in self._outputs:
            self._instead[id(result)] = source
            return
        order = constant(f"{result.name}/perm", np.array(perm, np.int32))
        self.ops.append(Op("TRANSPOSE", (source, order), (result,), {}, op.source))
        self._turned[id(result)] = (source, perm)

    def _sunk(self, op: Op) -> bool:
        data = self._data_inputs(op)
        found = [self._turned[id(t)] for t in data if id(t) in self._turned]
        if not found or len(op.outputs) != 1:
            return False
        perm = found[0][1]
        if any(other != perm for _, other in found) or op.outputs[0].dtype not in _EVERYWHERE:
            return False
        if op.code in ELEMENTWISE:
            return self._elementwise(op, perm)
        if len(found) != len(data):
            return False
        if op.code == "CONCATENATION":
            axis = perm[int(op.options["axis"]) % len(perm)]  # type: ignore[arg-type]
            return self._done(op, tuple(s for s, _ in found), perm, {**op.options, "axis": axis})
        if op.code == "GATHER":
            return self._gathered(op, found[0][0], perm)
        if op.code in ("PAD", "PADV2", "SLICE"):
            return self._by_axis(op, found[0][0], perm)
        if op.code == "RESHAPE":
            return self._with_ones(op, found[0][0], perm)
        if op.code in _REDUCTIONS:
            return self._reduced(op, found[0][0], perm)
        return False

    def _data_inputs(self, op: Op) -> list[Tensor]:
        given = [t for t in op.inputs if t is not None]
        if op.code in ("PAD", "PADV2", "SLICE", "GATHER", "RESHAPE") or op.code in _REDUCTIONS:
            return given[:1]
        return given if op.code in ELEMENTWISE or op.code == "CONCATENATION" else []

    def _elementwise(self, op: Op, perm: Shape) -> bool:
        inputs: list[Tensor] = []
        for tensor in op.inputs:
            assert tensor is not None
            if id(tensor) in self._turned:
                inputs.append(self._turned[id(tensor)][0])
            elif int(np.prod(tensor.shape)) == 1:
                inputs.append(tensor)
            elif tensor.data is None and _only_ones_move(tensor.shape, perm):
                inputs.append(self._reshaped(tensor, perm, op))
            elif tensor.data is not None:
                wide = tensor.data.reshape([1] * (len(perm) - tensor.rank) + list(tensor.shape))
                inputs.append(self._constant(tensor, wide.transpose(np.argsort(perm))))
            else:
                return False
        if op.outputs[0].rank != len(perm):
            return False
        return self._done(op, tuple(inputs), perm, dict(op.options))

    def _constant(self, source: Tensor, data: Array) -> Tensor:
        """Return a turned constant, the same one for each reader that turns it alike: names of tensors are unique."""
        made = self._constants.setdefault(source.name, {})
        key = (data.shape, data.tobytes())
        if key not in made:
            made[key] = constant(f"{source.name}/turned{f'-{len(made) + 1}' if made else ''}", data)
        return made[key]

    def _reshaped(self, tensor: Tensor, perm: Shape, op: Op) -> Tensor:
        """Return a tensor before the transpose `perm`; only axes of one move, so a reshape says it."""
        shape = tuple(tensor.shape[int(p)] for p in np.argsort(perm))
        self._names += 1
        turned = replace(tensor, name=f"{tensor.name}/{self._names}", shape=shape)
        sizes = constant(f"{turned.name}/shape", np.array(shape, np.int32))
        self.ops.append(Op("RESHAPE", (tensor, sizes), (turned,), {"new_shape": shape}, op.source))
        return turned

    def _gathered(self, op: Op, source: Tensor, perm: Shape) -> bool:
        indices = op.inputs[1]
        if indices is None or indices.rank != 1 or op.options.get("batch_dims"):
            return False
        axis = perm[int(op.options["axis"]) % len(perm)]  # type: ignore[arg-type]
        return self._done(op, (source, indices), perm, {**op.options, "axis": axis})

    def _by_axis(self, op: Op, source: Tensor, perm: Shape) -> bool:
        tables = [t for t in op.inputs[1:] if t is not None]
        moved: list[Tensor] = [source]
        for table in tables:
            if table.data is None:
                return False
            if table.shape[:1] != (len(perm),):
                moved.append(table)
                continue
            new = np.empty_like(table.data)
            new[list(perm)] = table.data
            moved.append(self._constant(table, new))
        return self._done(op, tuple(moved), perm, dict(op.options))

    def _with_ones(self, op: Op, source: Tensor, perm: Shape) -> bool:
        """Do a reshape that only drops or adds axes of one, as around a convolution in one dimension."""
        given = op.inputs[0]
        assert given is not None
        changed = _ones_between(given.shape, op.outputs[0].shape)
        if changed is None:
            return False
        place, dropped, added = changed
        gone = {perm[axis] for axis in range(place, place + dropped)}
        kept = [axis for axis in range(source.rank) if axis not in gone]
        order = [kept.index(axis) for axis in perm if axis not in gone]
        # New axes of one stand in front of what follows them, so that the transposes on both sides undo one another.
        at = order[place] if place < len(order) else len(order)
        order = [axis + added if axis >= at else axis for axis in order]
        order[place:place] = range(at, at + added)
        shape = [source.shape[axis] for axis in kept]
        shape[at:at] = [1] * added
        sizes = self._constant(
            constant(f"{op.outputs[0].name}/sizes", np.array(shape, np.int32)), np.array(shape, np.int32)
        )
        return self._done(op, (source, sizes), tuple(order), {"new_shape": tuple(shape)})

    def _reduced(self, op: Op, source: Tensor, perm: Shape) -> bool:
        axes = op.inputs[1]
        if axes is None or axes.data is None or op.options.get("keep_dims"):
            return False
        gone = {perm[int(a) % len(perm)] for a in axes.data.reshape(-1)}
        left = [p for p in perm if p not in gone]
        order = tuple(sorted(left).index(p) for p in left)
        new = self._constant(axes, np.array(sorted(gone), np.int32))
        return self._done(op, (source, new), order, dict(op.options))

    def _done(self, op: Op, inputs: tuple[Tensor, ...], perm: Shape, options: dict[str, Option]) -> bool:
        """Append the operator on untransposed inputs and the transpose of its result."""
        result = op.outputs[0]
        shape = [0] * len(perm)
        for position, axis in enumerate(perm):
            shape[axis] = result.shape[position]
        self._names += 1
        inner = replace(result, name=f"{result.name}/{self._names}", shape=tuple(shape))
        self.ops.append(replace(op, inputs=inputs, outputs=(inner,), options=options))
        self._emit_transposed(inner, perm, result, op)
        return True


def _ones_between(before: Shape, after: Shape) -> tuple[int, int, int] | None:
    """Return (place, axes dropped, axes added) of a reshape that only drops or only adds axes of one in a row; None for others."""
    short = min(len(before), len(after))
    left = next((at for at in range(short) if before[at] != after[at]), short)
    right = next((at for at in range(short - left) if before[-1 - at] != after[-1 - at]), short - left)
    dropped, added = len(before) - left - right, len(after) - left - right
    if (not dropped and not added) or (dropped and added):
        return None
    ones = before[left : left + dropped] + after[left : left + added]
    return (left, dropped, added) if set(ones) == {1} else None


def _only_ones_move(shape: Shape, perm: Shape) -> bool:
    """Say whether the axes longer than one stay in their order when the transpose `perm` is undone."""
    if len(shape) != len(perm):
        return False
    moved = [int(p) for p in np.argsort(perm) if shape[int(p)] != 1]
    return moved == sorted(moved)
