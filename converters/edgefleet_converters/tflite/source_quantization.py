"""Read the scales that an ONNX model brings with it, and write the model in real numbers around them.

A quantized model says of each value on which grid it is stored: pairs of QuantizeLinear and DequantizeLinear (QDQ), or operators
that take and give stored numbers (QLinearConv …). Both become the same float graph here, in which `Stored` (domain `DOMAIN`) stands
where a value is put on its grid. It is lowered to QUANTIZE and DEQUANTIZE, which `quantize.source_grids` joins with the operators around.

Exact by construction: a stored number that goes anywhere else (an output, arithmetic on integers) is made again by QuantizeLinear
of a value on its grid. uint8 becomes int8 with a zero point 128 lower. Scales that are no constants stay what they were.
Sources: the ONNX operator pages; onnxruntime's ContribOperators.md for `com.microsoft`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edgefleet_converters.onnx.walk import attributes_of
from edgefleet_converters.tflite.ir import Array

DOMAIN: Final = "edgefleet"
MARK: Final = "Stored"
_SHIFT: Final = {"int8": 0, "uint8": 128}
_MOVING: Final = frozenset({
    "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "MaxPool", "Slice", "Gather", "Expand", "Tile", "DepthToSpace",
    "SpaceToDepth", "Identity", "Split",
})  # fmt: skip
"""Operators on stored numbers that do the same on real ones, whatever the grid. All else that they read is no stored number."""
_DECIDING: Final = ("ArgMax", "ArgMin")
_CONTRIB: Final = "com.microsoft"


@dataclass(frozen=True)
class Grid:
    """real = scale · (stored - zero), stored as int8. One pair, or one for each channel of a constant."""

    scale: tuple[float, ...]
    zero: tuple[int, ...]


@dataclass(frozen=True)
class SourceQuantization:
    """model: in real numbers, with `Stored` nodes. grids: of the constants that a node reads, by the compiler's name for the node."""

    model: onnx.ModelProto
    grids: Mapping[str, tuple[Grid, ...]]


def label_of(node: onnx.NodeProto) -> str:
    """Return what the compiler calls a node in `Op.source`."""
    return f"node {node.name or node.output[0]!r} ({node.op_type})"


def source_quantization(model: onnx.ModelProto) -> SourceQuantization | None:
    """Return the model around its own grids; None when it has none that could be carried."""
    if not any(node.op_type.startswith(("QuantizeLinear", "QLinear", "QGemm")) for node in model.graph.node):
        return None
    walk = _Walk(model)
    for node in model.graph.node:
        walk.visit(node)
    return walk.end() if walk.marks else None


@dataclass(frozen=True)
class _Real:
    """A stored value: the name of its real numbers, its grid and its own type."""

    name: str
    grid: Grid
    dtype: str


class _Walk:
    """One walk along the nodes of the main graph."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = model
        self._constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
        self._real: dict[str, _Real] = {}
        self._grid_of: dict[str, Grid] = {}
        self._grids: dict[str, tuple[Grid, ...]] = {}
        self._nodes: list[onnx.NodeProto] = []
        self._new: dict[str, Array] = {}
        self._remade: set[str] = set()
        self.marks = 0

    def visit(self, node: onnx.NodeProto) -> None:
        """Append what stands for a node."""
        if node.op_type == "Constant" and not node.domain:
            value = attributes_of(node).get("value")
            if isinstance(value, onnx.TensorProto):
                self._constants[node.output[0]] = numpy_helper.to_array(value)
        rule = _RULES.get((node.domain if node.domain != "ai.onnx" else "", node.op_type))
        if rule is None or not rule(self, node):
            self._keep(node)

    def end(self) -> SourceQuantization:
        """Return the new model."""
        for value in self._model.graph.output:
            self._remake(value.name)
        after = onnx.ModelProto()
        after.CopyFrom(self._model)
        del after.graph.node[:]
        after.graph.node.extend(self._nodes)
        after.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in self._new.items())
        if not any(entry.domain == DOMAIN for entry in after.opset_import):
            after.opset_import.append(helper.make_opsetid(DOMAIN, 1))
        return SourceQuantization(after, self._grids)

    def _keep(self, node: onnx.NodeProto) -> None:
        from edgefleet_converters.tflite.trace import read_names

        for name in sorted(read_names([node])):
            self._remake(name)
        self._nodes.append(node)
        self._note(node)

    def _note(self, node: onnx.NodeProto) -> None:
        """Keep the grids of the constants that a node reads."""
        found = tuple(self._grid_of[name] for name in node.input if name in self._grid_of)
        if found:
            self._grids[label_of(node)] = found

    def _remake(self, name: str) -> None:
        """Make the stored numbers of a value that something else reads."""
        real = self._real.get(name)
        if real is None or name in self._remade:
            return
        self._remade.add(name)
        scale = self._constant(f"{name}/scale", np.array(real.grid.scale[0], np.float32))
        zero = self._constant(f"{name}/zero", np.array(real.grid.zero[0] + _SHIFT[real.dtype], real.dtype))
        self._nodes.append(helper.make_node("QuantizeLinear", [real.name, scale, zero], [name]))

    def _constant(self, name: str, array: Array) -> str:
        self._new[name] = array
        return name

    def _emit(self, op_type: str, inputs: Sequence[str], output: str, like: onnx.NodeProto, **attributes: Any) -> None:
        """Append a node that is named after another one."""
        made = helper.make_node(op_type, list(inputs), [output], name=like.name or like.output[0], **attributes)
        self._nodes.append(made)
        self._note(made)

    def _stored(self, source: str, output: str, real: str, grid: Grid, dtype: str) -> None:
        """Append the mark that puts `source` on its grid; `output` is the name of the stored numbers."""
        self.marks += 1
        attributes = {"scale": grid.scale[0], "zero": grid.zero[0]}
        self._nodes.append(helper.make_node(MARK, [source], [real], name=output, domain=DOMAIN, **attributes))
        self._real[output] = _Real(real, grid, dtype)

    def _grid(self, scale: str, zero: str, dtype: str = "uint8") -> tuple[Grid, str] | None:
        """Return the grid that two constants name, and the type of the stored numbers; None where they are none of 8 bits."""
        factor, point = self._constants.get(scale), self._constants.get(zero) if zero else np.zeros((), dtype)
        if factor is None or point is None or point.dtype.name not in _SHIFT or factor.dtype != np.float32:
            return None
        scales, points = factor.reshape(-1), np.broadcast_to(point.reshape(-1), factor.size)
        if not np.isfinite(scales).all() or not (scales > 0).all():
            return None
        kind = point.dtype.name
        return Grid(tuple(map(float, scales)), tuple(int(p) - _SHIFT[kind] for p in points)), kind

    def _read(self, name: str, scale: str, zero: str, axis: int = 0) -> str | None:
        """Return the name of the real numbers that an operator reads as (stored, scale, zero point); None where that is not known."""
        real, found = self._real.get(name), self._grid(scale, zero)
        if real is not None:
            return real.name if found is not None and found == (real.grid, real.dtype) else None
        stored = self._constants.get(name)
        if found is None or not zero:
            return None
        if stored is None:
            return self._given(name, scale, zero, f"{name}/real/{scale}", *found)
        if stored.dtype.name != found[1]:
            return None
        return self._freed(f"{name}/real/{scale}", stored, found[0], axis)

    def _given(self, name: str, scale: str, zero: str, real: str, grid: Grid, _dtype: str) -> str | None:
        """Add the real numbers of a value that comes in as stored ones: an input of the model, or the result of integer work."""
        if len(grid.scale) != 1:
            return None
        read = f"{real}/read"
        self._nodes.append(helper.make_node("DequantizeLinear", [name, scale, zero], [read]))
        self.marks += 1
        mark = {"scale": grid.scale[0], "zero": grid.zero[0]}
        self._nodes.append(helper.make_node(MARK, [read], [real], name=real, domain=DOMAIN, **mark))
        return real

    def _freed(self, name: str, stored: Array, grid: Grid, axis: int) -> str:
        """Add the real numbers of a stored constant."""
        shape = [-1 if len(grid.scale) > 1 and i == axis % stored.ndim else 1 for i in range(stored.ndim)]
        scale = np.array(grid.scale, np.float32).reshape(shape)
        zero = np.array(grid.zero, np.int32).reshape(shape) + _SHIFT[stored.dtype.name]
        self._grid_of[name] = grid
        return self._constant(
            name, np.asarray((stored.astype(np.int32) - zero) * scale, np.float32).reshape(stored.shape)
        )

    # --- QDQ ---------------------------------------------------------------------------------------------------------

    def quantize(self, node: onnx.NodeProto) -> bool:
        """QuantizeLinear with one constant scale."""
        facts = attributes_of(node)
        found = self._grid(node.input[1], node.input[2] if len(node.input) > 2 else "")
        if found is None or facts.get("output_dtype", 0) or len(found[0].scale) != 1:
            return False
        grid, dtype = found
        value = self._constants.get(node.input[0])
        if value is None:
            self._stored(node.input[0], node.output[0], f"{node.output[0]}/real", grid, dtype)
            return True
        limits = np.iinfo(dtype)
        whole = np.rint(value.astype(np.float32) / np.float32(grid.scale[0])) + grid.zero[0] + _SHIFT[dtype]
        self._constants[node.output[0]] = np.clip(whole, limits.min, limits.max).astype(dtype)
        return False

    def dequantize(self, node: onnx.NodeProto) -> bool:
        """DequantizeLinear of a value that was put on its grid, or of a constant."""
        name, scale = node.input[0], node.input[1]
        zero = node.input[2] if len(node.input) > 2 else ""
        facts = attributes_of(node)
        if facts.get("block_size", 0):
            return False
        real = self._real.get(name)
        if real is not None:
            found = self._grid(scale, zero, real.dtype)
            if found is None or found != (real.grid, real.dtype):
                return False
            self._nodes.append(helper.make_node("Identity", [real.name], list(node.output)))
            return True
        stored = self._constants.get(name)
        if stored is None:
            found = self._grid(scale, zero) if zero else None
            return found is not None and self._given(name, scale, zero, node.output[0], *found) is not None
        found = self._grid(scale, zero, stored.dtype.name) if stored.dtype.name in _SHIFT else None
        if found is None or (found[1] != stored.dtype.name):
            return False
        # Under its own name: the node after it reads it there.
        self._freed(node.output[0], stored, found[0], int(facts.get("axis", 1)))
        return True

    # --- on stored numbers -------------------------------------------------------------------------------------------

    def moving(self, node: onnx.NodeProto) -> bool:
        """Operators that move stored numbers, or choose among them."""
        real = self._real.get(node.input[0])
        outputs = [name for name in node.output if name]
        if real is None or any(name in self._real for name in node.input[1:]):
            return False
        if node.op_type == "MaxPool" and len(outputs) > 1:
            return False
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.input[0] = real.name
        if node.op_type not in _DECIDING:
            copy.output[:] = [f"{name}/real" if name else "" for name in node.output]
            self._real.update({name: _Real(f"{name}/real", real.grid, real.dtype) for name in outputs})
        self._nodes.append(copy)
        return True

    def pad(self, node: onnx.NodeProto) -> bool:
        """Pad: the number that fills is a stored one, 0 where none is given."""
        real = self._real.get(node.input[0])
        given = node.input[2] if len(node.input) > 2 else ""
        fill = self._constants.get(given) if given else np.zeros(())
        if real is None or fill is None or str(attributes_of(node).get("mode", "constant")).strip("b'") != "constant":
            return self.moving(node) if real is not None and not given else False
        value = (float(fill.reshape(())) - real.grid.zero[0] - _SHIFT[real.dtype]) * real.grid.scale[0]
        name = node.output[0]
        inputs = [
            real.name,
            node.input[1],
            self._constant(f"{name}/fill", np.array(value, np.float32)),
            *node.input[3:],
        ]
        self._emit("Pad", inputs, f"{name}/real", node)
        self._real[name] = _Real(f"{name}/real", real.grid, real.dtype)
        return True

    def concat(self, node: onnx.NodeProto) -> bool:
        """Concat of stored numbers on one grid."""
        reals = [self._real.get(name) for name in node.input]
        kinds = {(real.grid, real.dtype) for real in reals if real is not None}
        if None in reals or len(kinds) != 1:
            return False
        name = node.output[0]
        axis = attributes_of(node)["axis"]
        self._emit("Concat", [real.name for real in reals if real is not None], f"{name}/real", node, axis=axis)
        grid, dtype = kinds.pop()
        self._real[name] = _Real(f"{name}/real", grid, dtype)
        return True

    def qlinear(self, node: onnx.NodeProto) -> bool:
        """Operators of (stored, scale, zero point) inputs, followed by scale and zero point of the result."""
        form = _QLINEAR[node.op_type]
        given = list(node.input) + [""] * 12
        at = 3 * form.inputs
        if form.result_first:
            at, count = 0, (len(node.input) - 2) // 3
            triples = [given[2 + 3 * i : 5 + 3 * i] for i in range(count)]
        else:
            triples = [given[3 * i : 3 * i + 3] for i in range(form.inputs)]
        if form.bias_before:
            at += 1
        result = self._grid(given[at], given[at + 1])
        axis = 0 if attributes_of(node).get("transB", 0) else form.axis
        reals = [self._read(name, scale, zero, axis if i else 0) for i, (name, scale, zero) in enumerate(triples)]
        names = [name for name in reals if name is not None]
        if result is None or len(result[0].scale) != 1 or len(names) != len(reals):
            return False
        place = 3 * form.inputs if form.bias_before else at + 2
        if form.biased and given[place]:
            bias = self._bias(node, given[place], triples)
            if bias is None:
                return False
            names.append(bias)
        facts = {key: value for key, value in attributes_of(node).items() if key not in ("opset", "channels_last")}
        if attributes_of(node).get("channels_last", 0):
            return False
        raw, real = f"{node.output[0]}/raw", f"{node.output[0]}/real"
        self._emit(form.op_type, names, raw, node, **facts)
        self._stored(raw, node.output[0], real, *result)
        return True

    def _bias(self, node: onnx.NodeProto, name: str, triples: Sequence[Sequence[str]]) -> str | None:
        """Add the real numbers of a bias of 32 bits, which has the product of both scales."""
        stored, one, other = (self._constants.get(key) for key in (name, triples[0][1], triples[1][1]))
        if stored is None or one is None or other is None:
            return None
        scale = one.reshape(-1).astype(np.float64) * other.reshape(-1).astype(np.float64)
        return self._constant(f"{node.output[0]}/bias", np.asarray(stored.reshape(-1) * scale, np.float32))


@dataclass(frozen=True)
class _Form:
    """How an operator on stored numbers lists what it reads. axis: of the second input's channels."""

    op_type: str
    inputs: int
    axis: int = 0
    biased: bool = False
    bias_before: bool = False
    result_first: bool = False


_QLINEAR: Final = {
    "QLinearConv": _Form("Conv", 2, biased=True), "QLinearMatMul": _Form("MatMul", 2, axis=-1), "QLinearAdd": _Form("Add", 2),
    "QLinearMul": _Form("Mul", 2), "QLinearSigmoid": _Form("Sigmoid", 1), "QLinearLeakyRelu": _Form("LeakyRelu", 1),
    "QLinearGlobalAveragePool": _Form("GlobalAveragePool", 1), "QLinearAveragePool": _Form("AveragePool", 1),
    "QLinearSoftmax": _Form("Softmax", 1), "QLinearConcat": _Form("Concat", 0, result_first=True),
    "QGemm": _Form("Gemm", 2, axis=-1, biased=True, bias_before=True),
}  # fmt: skip
_STANDARD: Final = ("QLinearConv", "QLinearMatMul")

_RULES: Final[dict[tuple[str, str], Callable[[_Walk, onnx.NodeProto], bool]]] = {
    ("", "QuantizeLinear"): _Walk.quantize, ("", "DequantizeLinear"): _Walk.dequantize, ("", "Pad"): _Walk.pad,
    ("", "Concat"): _Walk.concat,
    **{("", name): _Walk.moving for name in (*_MOVING, *_DECIDING)},
    **{("" if name in _STANDARD else _CONTRIB, name): _Walk.qlinear for name in _QLINEAR},
}  # fmt: skip
