"""Full-integer int8: operators with an int8 kernel read and write int8; around all others the values are float32.

The graph's inputs and outputs keep their names and, with `io_dtype` float32, their types.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from edgefleet_converters.tflite.ir import Array, Graph, Op, Quantization, Tensor
from edgefleet_converters.tflite.quantize import affine, tables
from edgefleet_converters.tflite.quantize.affine import Range
from edgefleet_converters.tflite.quantize.bias import corrected
from edgefleet_converters.tflite.quantize.float_operators import before_cancellation, before_decisions
from edgefleet_converters.tflite.quantize.kernels import DECIDING_INT8, Kernel, bias_position, kernel_of
from edgefleet_converters.tflite.quantize.tables import TABLE, Chain

_ADD_LIKE: Final = ("ADD", "SUB", "SQUARED_DIFFERENCE")
_MOST_APART: Final = 1 << 16
"""How much coarser an operand of a sum may be than its result: beyond 2^20 the kernels' multiplier overflows."""
_LEAST_SOFTMAX_SCALE: Final = 2.0**-24
_FINE: Final = Quantization((1 / 32768,), (0,))
_NARROW: Final = 0.5
"""Probabilities that stay below are written in 16 bits first: the 8-bit kernel's only scale, 1/256, wastes a bit of them."""
_POSITION_OF_DATA: Final = {"TRANSPOSE_CONV": 2}


@dataclass(frozen=True)
class Form:
    """How a static model stores numbers.

    io_dtype: float32, int8 or uint8: type of the graph's inputs and outputs that were float32. With integers there, the file is
    for a board that has no float32 at all: decisions, sums that cancel and steep functions are taken in int8 too.
    act_dtype: int8, or int16 for activations of 16 bits next to weights of 8; only with float32 inputs and outputs.
    per_channel: whether weights have a scale each channel where the kernel takes that, or one in all.
    """

    io_dtype: str = "float32"
    act_dtype: str = "int8"
    per_channel: bool = True


_PLAIN: Final = Form()


def quantize_static(
    graph: Graph, ranges: Mapping[int, Range], adapter: str, form: Form = _PLAIN, *,
    float_ops: frozenset[int] = frozenset(), means: Mapping[int, Array] | None = None,
) -> Graph:  # fmt: skip
    """Return the graph in int8. ranges: of `ranges.observe`. float_ops: ids of operators that stay float32.

    means: of `bias.ChannelMeans`, for biases that take the mean error of rounded weights out.
    """
    return _Rewriter(graph, ranges, adapter, form, float_ops, means or {}).run()


class _Rewriter:
    """One graph on its way. A value may exist as float32, as int8, or as both."""

    def __init__(
        self, graph: Graph, ranges: Mapping[int, Range], adapter: str, form: Form, float_ops: frozenset[int],
        means: Mapping[int, Array],
    ) -> None:  # fmt: skip
        self._adapter = adapter
        self._ranges = ranges
        self._means = means
        self._form = form
        self._whole = whole = form.io_dtype != "float32"
        self._dtype = act_dtype = form.act_dtype
        self._graph = graph
        self._chains: dict[int, Chain] = {}
        self._float_ops = float_ops
        if act_dtype == "int8":
            # 65,536 entries would be no table, so 16 bits have none.
            found = _chains(graph, ranges, adapter, float_ops)
            slow = [chain for chain in found if not whole and tables.is_slow(chain, adapter)]
            self._float_ops |= {id(op) for chain in slow for op in chain.ops}
            self._graph, self._chains = tables.with_tables(graph, [chain for chain in found if chain not in slow])
        if not whole:
            self._float_ops |= before_decisions(self._graph)
            scales = _scales(self._graph, ranges, adapter, self._float_ops, act_dtype, whole=whole)
            self._float_ops |= before_cancellation(self._graph, scales)
        self._scales = _scales(self._graph, ranges, adapter, self._float_ops, act_dtype, whole=whole)
        self._floats: dict[int, Tensor] = {id(t): t for t in graph.inputs}
        self._ints: dict[int, Tensor] = {}
        self._again: dict[tuple[int, Quantization], Tensor] = {}
        self._ops: list[Op] = []

    def run(self) -> Graph:
        """Rewrite all operators and close the edges."""
        io_dtype = self._form.io_dtype
        inputs = tuple(self._input(t, io_dtype) for t in self._graph.inputs)
        for op in self._graph.ops:
            kernel = None if id(op) in self._float_ops else kernel_of(op, self._adapter, self._dtype)
            if op.code == TABLE:
                self._table(op, self._chains[id(op)])
            elif not (self._int8(op, kernel) if kernel is not None else self._decided(op)):
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
        edge = replace(tensor, dtype="uint8", quantization=unsigned(scale))
        self._ints[id(tensor)] = self._quantized(edge, scale, tensor.name)
        return edge

    def _output(self, tensor: Tensor, io_dtype: str) -> Tensor:
        stored = self._ints.get(id(tensor))
        if stored is None or stored.quantization is None or io_dtype == "float32":
            return self._as_float(tensor)
        kind = stored.quantization if io_dtype == "int8" else unsigned(stored.quantization)
        edge = replace(tensor, dtype=io_dtype, quantization=kind)
        made = [index for index, op in enumerate(self._ops) if any(t is stored for t in op.outputs)]
        if io_dtype == "uint8" or not made:
            self._ops.append(Op("QUANTIZE", (stored,), (edge,)))
            return edge
        self._ops = [renamed(op, stored, edge) for op in self._ops]
        self._ints = {key: edge if held is stored else held for key, held in self._ints.items()}
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
            return affine.constant_as(tensor, scale, self._dtype)
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
        made = Tensor(f"{name}_{self._dtype}", self._dtype, source.shape, quantization=scale)
        self._ops.append(Op("QUANTIZE", (source,), (made,)))
        return made

    def _table(self, op: Op, chain: Chain) -> None:
        """Write a chain as CAST, ADD and GATHER, or its own float operators where that must be."""
        source, result = chain.source, self._scales[id(op.outputs[0])]
        levels = None
        if id(op) not in self._float_ops:
            floats = id(source) in self._floats
            levels = tables.levels_of(chain, self._ranges[id(source)], result, self._adapter, is_float=floats)
            levels = levels or (tables.LEVELS[0] if self._whole else None)
        if levels is None:
            for each in chain.ops:
                self._float(each)
            return
        if levels == tables.LEVELS[0]:
            scale = self._scale_of(source)
            assert scale is not None
            index, first = self._as_int8(source, scale), -128
        else:
            scale = tables.index_scale(self._ranges[id(source)], levels)
            index = Tensor(f"{op.outputs[0].name}/index", "int16", source.shape, quantization=scale)
            self._ops.append(Op("QUANTIZE", (self._floats[id(source)],), (index,), {}, op.source))
            first = round(min(self._ranges[id(source)][0], 0.0) / scale.scale[0])
        points = (np.arange(first, first + levels) - scale.zero_point[0]) * scale.scale[0]
        self._looked_up(op, index, first, tables.entries(chain, points, result, self._adapter), result)

    def _looked_up(self, op: Op, index: Tensor, first: int, entries: Array, result: Quantization) -> None:
        ops, self._ints[id(op.outputs[0])] = tables.looked_up(op, index, first, entries, result)
        self._ops += ops

    def _decided(self, op: Op) -> bool:
        """Write a choice on int8 values; False where it must be made in float32.

        ARG_MAX chooses the same among stored numbers as among their real values, so one that is stored anyway is not turned back.
        """
        flowing = [t for t in op.inputs if t is not None and t.dtype == "float32"]
        if self._dtype != "int8" or op.code not in DECIDING_INT8 or not flowing or op.outputs[0].dtype == "float32":
            return False
        stored = all(id(t) in self._ints and id(t) not in self._floats for t in flowing) and len(flowing) == 1
        scales = [self._scale_of(t) for t in flowing]
        if not (stored or self._whole) or id(op) in self._float_ops or any(scale is None for scale in scales):
            return False
        common = max((scale for scale in scales if scale is not None), key=lambda scale: scale.scale[0])
        given = [self._as_int8(t, common) if t is not None else None for t in op.inputs]
        self._ops.append(replace(op, inputs=tuple(given)))
        return True

    def _int8(self, op: Op, kernel: Kernel) -> bool:
        """Write the operator in int8; False, with nothing written, where a range is missing or the kernel's limits forbid it."""
        inputs = self._inputs_of(op, kernel)
        result = self._scales.get(id(op.outputs[0]))
        if inputs is None or result is None or not fits(op, inputs, result):
            return False
        if kernel.scales == "weighted":
            kernel = kernel if self._form.per_channel else replace(kernel, axis=None)
            suited = corrected(op, self._means, kernel.axis)
            inputs = _weighted(suited, kernel, inputs, "int64" if self._dtype == "int16" else "int32")
        given = [t if t is None or not isinstance(s, Quantization) else self._as_int8(t, s) for t, s in inputs]
        name = f"{op.outputs[0].name}_{self._dtype}"
        out = replace(op.outputs[0], name=name, dtype=self._dtype, quantization=result)
        if op.code == "SOFTMAX" and result != kernel.result:
            fine = replace(out, name=f"{out.name}/fine", dtype="int16", quantization=_FINE)
            self._ops += [
                replace(op, inputs=tuple(given), outputs=(fine,)),
                Op("QUANTIZE", (fine,), (out,), {}, op.source),
            ]
        else:
            options = dict(op.options)
            if self._dtype == "int16" and op.code in ("ADD", "SUB"):
                # The schema's default stands for the oldest files, whose 16-bit scales were powers of two.
                options["pot_scale_int16"] = False
            self._ops.append(replace(op, inputs=tuple(given), outputs=(out,), options=options))
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
        return affine.activation(_bounds(tensor), self._dtype) if affine.finite(_bounds(tensor)) else None


def renamed(op: Op, old: Tensor, new: Tensor) -> Op:
    inputs = tuple(new if t is old else t for t in op.inputs)
    return replace(op, inputs=inputs, outputs=tuple(new if t is old else t for t in op.outputs))


def _chains(graph: Graph, ranges: Mapping[int, Range], adapter: str, float_ops: frozenset[int]) -> list[Chain]:
    """Return the chains that can be tables."""
    return [
        chain for chain in tables.chains(graph, adapter, float_ops)
        if all(id(t) in ranges and affine.finite(ranges[id(t)]) for t in (chain.source, chain.result))
    ]  # fmt: skip


_Given = tuple[Tensor | None, Quantization | None]


def _weighted(op: Op, kernel: Kernel, inputs: list[_Given], bias_dtype: str) -> list[_Given]:
    """Return the inputs with weights and bias in integers."""
    data = _POSITION_OF_DATA.get(op.code, 0)
    position = bias_position(op)
    weights, scale = op.inputs[1], inputs[data][1]
    assert weights is not None
    assert scale is not None
    scales = affine.weight_scales(weights.constant, kernel.axis)
    bias = op.inputs[position] if position < len(op.inputs) else None
    done = list(inputs)
    if bias is not None:
        scales = affine.room_for_bias(scales, bias.constant, scale.scale[0])
        done[position] = (affine.bias_as(bias, scale.scale[0], scales, bias_dtype), None)
    done[1] = (affine.weights_as(weights, scales, kernel.axis), None)
    return done


def _scales(
    graph: Graph,
    ranges: Mapping[int, Range],
    adapter: str,
    float_ops: frozenset[int] | set[int],
    dtype: str,
    *,
    whole: bool,
) -> dict[int, Quantization]:
    """Return id of tensor -> the scale that its int8 form is written with.

    An operator that only moves numbers hands its input's scale on, so nothing is rounded twice; one with several inputs
    (CONCATENATION) has a scale of its own, and what is made only for it is written in that scale at once.
    """
    scales = {key: affine.activation(bounds, dtype) for key, bounds in ranges.items() if affine.finite(bounds)}
    readers: dict[int, int] = {}
    for tensor in (*(t for op in graph.ops for t in op.inputs if t is not None), *graph.outputs):
        readers[id(tensor)] = readers.get(id(tensor), 0) + 1
    maker = {id(op.outputs[0]): op for op in graph.ops if len(op.outputs) == 1}
    for op in graph.ops:
        kernel = None if id(op) in float_ops else kernel_of(op, adapter, dtype)
        if kernel is None:
            continue
        out = id(op.outputs[0])
        flowing = [
            t for t in op.inputs if t is not None and t.dtype == "float32" and (op.code != "MUL" or t.data is None)
        ]
        # Boards without float32 may have no 16 bits either, or (TFLite Micro) want another zero point for them.
        narrow = dtype == "int8" and not whole and op.code == "SOFTMAX"
        if kernel.result is not None and not (narrow and ranges.get(out, (0.0, 1.0))[1] < _NARROW):
            scales[out] = kernel.result
        elif dtype == "int8" and op.code == "MUL" and (factor := _factor(op)) is not None and id(flowing[0]) in scales:
            scales[out] = affine.times(scales[id(flowing[0])], factor)
        elif kernel.scales == "same" and len(flowing) == 1 and id(flowing[0]) in scales:
            scales[out] = scales[id(flowing[0])]
        elif kernel.scales == "same" and len(flowing) > 1 and out in scales:
            for tensor in flowing:
                made = maker.get(id(tensor))
                own = kernel_of(made, adapter, dtype) if made is not None and id(made) not in float_ops else None
                free = own is not None and own.scales != "same" and own.result is None
                if free and readers[id(tensor)] == 1 and op.code == "CONCATENATION":
                    scales[id(tensor)] = scales[out]
    return scales


def _factor(op: Op) -> float | None:
    """Return what a product multiplies each number by, where that is one constant and nothing is clipped."""
    if op.options.get("fused_activation_function"):
        return None
    held = [t.constant for t in op.inputs if t is not None and t.data is not None]
    if len(held) != 1 or held[0].size != 1:
        return None
    value = float(held[0].reshape(()))
    return value if 1e-6 < abs(value) < 1e6 else None


def fits(op: Op, inputs: list[_Given], result: Quantization) -> bool:
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


def unsigned(scale: Quantization) -> Quantization:
    return Quantization(scale.scale, (scale.zero_point[0] + 128,))
