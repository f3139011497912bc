"""Full-integer int8: operators with an int8 kernel read and write int8; around all others the values are float32.

The graph's inputs and outputs keep their names and, with `io_dtype` float32, their types.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

import numpy as np

from edgefleet_converters.tflite.ir import Graph, Op, Quantization, Tensor
from edgefleet_converters.tflite.quantize import affine
from edgefleet_converters.tflite.quantize.affine import Range
from edgefleet_converters.tflite.quantize.kernels import Kernel, kernel_of

_ADD_LIKE: Final = ("ADD", "SUB", "SQUARED_DIFFERENCE")
_MOST_APART: Final = 1 << 16
"""How much coarser an operand of a sum may be than its result: beyond 2^20 the kernels' multiplier overflows."""
_LEAST_SOFTMAX_SCALE: Final = 2.0**-24
_PRODUCTS: Final = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV", "BATCH_MATMUL")
_DECIDING: Final = (
    "FLOOR", "CEIL", "ROUND", "SIGN", "FLOOR_DIV", "FLOOR_MOD", "ARG_MAX", "ARG_MIN", "TOPK_V2", "UNIQUE", "EQUAL",
    "NOT_EQUAL", "LESS", "LESS_EQUAL", "GREATER", "GREATER_EQUAL", "NON_MAX_SUPPRESSION_V4", "BITCAST",
)  # fmt: skip
_POSITION_OF_DATA: Final = {"TRANSPOSE_CONV": 2}


def quantize_static(graph: Graph, ranges: Mapping[int, Range], adapter: str, *, float_ops: frozenset[int] = frozenset(),
                    io_dtype: str = "float32") -> Graph:  # fmt: skip
    """Return the graph in int8. ranges: of `ranges.observe`. float_ops: ids of operators that stay float32.

    io_dtype: float32, int8 or uint8: type of the graph's inputs and outputs that were float32.
    """
    return _Rewriter(graph, ranges, adapter, float_ops).run(io_dtype)


class _Rewriter:
    """One graph on its way. A value may exist as float32, as int8, or as both."""

    def __init__(self, graph: Graph, ranges: Mapping[int, Range], adapter: str, float_ops: frozenset[int]) -> None:
        self._graph = graph
        self._adapter = adapter
        self._float_ops = float_ops | before_decisions(graph)
        self._scales = _scales(graph, ranges, adapter, self._float_ops)
        self._floats: dict[int, Tensor] = {id(t): t for t in graph.inputs}
        self._ints: dict[int, Tensor] = {}
        self._again: dict[tuple[int, Quantization], Tensor] = {}
        self._ops: list[Op] = []

    def run(self, io_dtype: str) -> Graph:
        """Rewrite all operators and close the edges."""
        inputs = tuple(self._input(t, io_dtype) for t in self._graph.inputs)
        for op in self._graph.ops:
            kernel = None if id(op) in self._float_ops else kernel_of(op, self._adapter)
            if kernel is None or not self._int8(op, kernel):
                self._float(op)
        outputs = tuple(self._output(t, io_dtype) for t in self._graph.outputs)
        return Graph(inputs, outputs, tuple(self._ops))

    def _input(self, tensor: Tensor, io_dtype: str) -> Tensor:
        scale = self._scales.get(id(tensor))
        if io_dtype == "float32" or scale is None:
            return tensor
        del self._floats[id(tensor)]
        edge = replace(tensor, dtype="int8", quantization=scale)
        if io_dtype == "int8":
            self._ints[id(tensor)] = edge
            return edge
        edge = replace(tensor, dtype="uint8", quantization=_unsigned(scale))
        self._ints[id(tensor)] = self._quantized(edge, scale, tensor.name)
        return edge

    def _output(self, tensor: Tensor, io_dtype: str) -> Tensor:
        stored = self._ints.get(id(tensor))
        if stored is None or stored.quantization is None:
            return self._as_float(tensor)
        if io_dtype == "float32":
            return self._as_float(tensor)
        kind = stored.quantization if io_dtype == "int8" else _unsigned(stored.quantization)
        edge = replace(tensor, dtype=io_dtype, quantization=kind)
        self._ops.append(Op("QUANTIZE", (stored,), (edge,)))
        return edge

    def _float(self, op: Op) -> None:
        self._ops.append(replace(op, inputs=tuple(None if t is None else self._as_float(t) for t in op.inputs)))
        self._floats.update({id(t): t for t in op.outputs})

    def _as_float(self, tensor: Tensor) -> Tensor:
        """Return a value as the float operators read it."""
        if tensor.data is not None or tensor.dtype != "float32":
            return tensor
        if id(tensor) not in self._floats:
            self._ops.append(Op("DEQUANTIZE", (self._ints[id(tensor)],), (tensor,)))
            self._floats[id(tensor)] = tensor
        return self._floats[id(tensor)]

    def _as_int8(self, tensor: Tensor, scale: Quantization) -> Tensor:
        """Return a value stored with this scale."""
        if tensor.dtype != "float32":
            return tensor
        if tensor.data is not None:
            return affine.constant_as(tensor, scale)
        known = self._ints.get(id(tensor))
        if known is not None and known.quantization == scale:
            return known
        key = (id(tensor), scale)
        if key not in self._again:
            # From the float32 value where there is one: another scale may have cut it already.
            source = self._floats.get(id(tensor), known)
            assert source is not None
            self._again[key] = self._quantized(source, scale, f"{tensor.name}_{len(self._again)}")
            if known is None and scale == self._scales.get(id(tensor)):
                self._ints[id(tensor)] = self._again[key]
        return self._again[key]

    def _quantized(self, source: Tensor, scale: Quantization, name: str) -> Tensor:
        made = Tensor(f"{name}_int8", "int8", source.shape, quantization=scale)
        self._ops.append(Op("QUANTIZE", (source,), (made,)))
        return made

    def _int8(self, op: Op, kernel: Kernel) -> bool:
        """Write the operator in int8; False, with nothing written, where a range is missing or the kernel's limits forbid it."""
        inputs = self._inputs_of(op, kernel)
        result = self._scales.get(id(op.outputs[0]))
        if inputs is None or result is None or not _fits(op, inputs, result):
            return False
        if kernel.scales == "weighted":
            inputs = _weighted(op, kernel, inputs)
        given = [t if t is None or not isinstance(s, Quantization) else self._as_int8(t, s) for t, s in inputs]
        out = replace(op.outputs[0], name=f"{op.outputs[0].name}_int8", dtype="int8", quantization=result)
        self._ops.append(replace(op, inputs=tuple(given), outputs=(out,)))
        self._ints[id(op.outputs[0])] = out
        return True

    def _inputs_of(self, op: Op, kernel: Kernel) -> "list[_Given] | None":
        """Return each input with the scale it is stored in, or with None where it is taken as it is."""
        given: list[_Given] = []
        result = self._scales.get(id(op.outputs[0]))
        data = _POSITION_OF_DATA.get(op.code, 0)
        for position, tensor in enumerate(op.inputs):
            if tensor is None or tensor.dtype != "float32" or (kernel.scales == "weighted" and position != data):
                given.append((tensor, None))
                continue
            scale = result if kernel.scales == "same" else self._scale_of(tensor)
            if scale is None or (tensor.data is not None and not affine.finite(_bounds(tensor))):
                return None
            given.append((tensor, scale))
        return given

    def _scale_of(self, tensor: Tensor) -> Quantization | None:
        if tensor.data is None:
            stored = self._ints.get(id(tensor))
            return stored.quantization if stored is not None else self._scales.get(id(tensor))
        return affine.activation(_bounds(tensor)) if affine.finite(_bounds(tensor)) else None


def before_decisions(graph: Graph) -> set[int]:
    """Return the ids of operators whose values are turned into indices, counts or choices; they must stay float32.

    Rounded to 256 steps, a coordinate picks another pixel. The walk back ends at products with weights: what those make is rounded
    anyway, and a classifier that ends in ARG_MAX would otherwise stay float32 as a whole.
    """
    maker = {id(t): op for op in graph.ops for t in op.outputs}
    waiting = [t for op in graph.ops if _decides(op) for t in op.inputs if t is not None]
    seen: set[int] = set()
    while waiting:
        op = maker.get(id(waiting.pop()))
        if op is None or id(op) in seen or op.code in _PRODUCTS:
            continue
        seen.add(id(op))
        waiting.extend(t for t in op.inputs if t is not None and t.dtype == "float32")
    return seen


def _decides(op: Op) -> bool:
    first = op.inputs[0] if op.inputs else None
    if op.code == "CAST":
        return first is not None and first.dtype == "float32" and not op.outputs[0].dtype.startswith("float")
    return op.code in _DECIDING


_Given = tuple[Tensor | None, Quantization | None]


def _weighted(op: Op, kernel: Kernel, inputs: list[_Given]) -> list[_Given]:
    """Return the inputs with weights and bias in integers."""
    data = _POSITION_OF_DATA.get(op.code, 0)
    position = data + 1 if op.code == "TRANSPOSE_CONV" else 2
    weights, scale = op.inputs[kernel.weights], inputs[data][1]
    assert weights is not None
    assert scale is not None
    scales = affine.weight_scales(weights.constant, kernel.axis)
    bias = op.inputs[position] if position < len(op.inputs) else None
    done = list(inputs)
    if bias is not None:
        scales = affine.room_for_bias(scales, bias.constant, scale.scale[0])
        done[position] = (affine.bias_as(bias, scale.scale[0], scales), None)
    done[kernel.weights] = (affine.weights_as(weights, scales, kernel.axis), None)
    return done


def _scales(
    graph: Graph, ranges: Mapping[int, Range], adapter: str, float_ops: frozenset[int]
) -> dict[int, Quantization]:
    """Return id of tensor -> the scale that its int8 form is written with.

    An operator that only moves numbers hands its input's scale on, so nothing is rounded twice; one with several inputs
    (CONCATENATION) has a scale of its own, and what is made only for it is written in that scale at once.
    """
    scales = {key: affine.activation(bounds) for key, bounds in ranges.items() if affine.finite(bounds)}
    readers: dict[int, int] = {}
    for tensor in (*(t for op in graph.ops for t in op.inputs if t is not None), *graph.outputs):
        readers[id(tensor)] = readers.get(id(tensor), 0) + 1
    maker = {id(op.outputs[0]): op for op in graph.ops if len(op.outputs) == 1}
    for op in graph.ops:
        kernel = None if id(op) in float_ops else kernel_of(op, adapter)
        if kernel is None:
            continue
        out = id(op.outputs[0])
        flowing = [t for t in op.inputs if t is not None and t.dtype == "float32"]
        if kernel.result is not None:
            scales[out] = kernel.result
        elif kernel.scales == "same" and len(flowing) == 1 and id(flowing[0]) in scales:
            scales[out] = scales[id(flowing[0])]
        elif kernel.scales == "same" and len(flowing) > 1 and out in scales:
            for tensor in flowing:
                made = maker.get(id(tensor))
                own = kernel_of(made, adapter) if made is not None and id(made) not in float_ops else None
                free = own is not None and own.scales != "same" and own.result is None
                if free and readers[id(tensor)] == 1 and op.code == "CONCATENATION":
                    scales[id(tensor)] = scales[out]
    return scales


def _fits(op: Op, inputs: list[_Given], result: Quantization) -> bool:
    """Say whether the kernel's fixed-point multipliers can hold these scales; it would end the process otherwise."""
    scales = [scale.scale[0] for _, scale in inputs if scale is not None]
    if op.code in _ADD_LIKE:
        return max(scales) < result.scale[0] * _MOST_APART
    if op.code == "SOFTMAX":
        return scales[0] > _LEAST_SOFTMAX_SCALE
    return bool(scales)


def _bounds(tensor: Tensor) -> Range:
    values = tensor.constant
    return (float(np.min(values)), float(np.max(values))) if values.size else (0.0, 0.0)


def _unsigned(scale: Quantization) -> Quantization:
    return Quantization(scale.scale, (scale.zero_point[0] + 128,))
