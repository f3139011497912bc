"""Join the grids of a quantized source with the operators between them: int8 operators with the source's own scales.

The compiled graph is in float32, with QUANTIZE and DEQUANTIZE where the source puts a value on its grid (`tflite.source_quantization`). An
operator computes in int8 when all that it reads is stored, what it makes goes to a grid and nowhere else, and the runtime has the kernel.
It stays between DEQUANTIZE and QUANTIZE where that is not so: nothing is rounded that the source does not round.

1. Weights and other constants keep their numbers: a scale is found again among those of the source's node and must give each value
   back. Weights that symmetric int8 cannot hold (a zero point off the middle) keep their operator in float32.
2. An operator that only moves or chooses numbers hands its grid on; a grid asked for behind it is asked for before it.
3. A join of several grids is stored on that of its result; a kernel with a scale of its own is followed by QUANTIZE.
4. A function of one stored value without a kernel is a table of its 256 results.
5. An average on another grid is a convolution with equal weights: AVERAGE_POOL_2D writes with its input's scale.
6. Where FULLY_CONNECTED has no scales for each channel (tflite-runtime 2.14), a 1 x 1 CONV_2D does the same product.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from edgefleet_converters.tflite.ir import Array, Graph, Op, Quantization, Tensor, constant
from edgefleet_converters.tflite.quantize import affine, tables
from edgefleet_converters.tflite.quantize.graph_rewrites import as_convolution
from edgefleet_converters.tflite.quantize.kernels import DECIDING_INT8, Kernel, bias_position, kernel_of
from edgefleet_converters.tflite.quantize.static import fits, renamed, unsigned
from edgefleet_converters.tflite.source_quantization import Grid

_MOVING: Final = frozenset({
    "RESHAPE", "TRANSPOSE", "SLICE", "STRIDED_SLICE", "GATHER", "GATHER_ND", "PAD", "PADV2", "MIRROR_PAD", "TILE",
    "MAX_POOL_2D", "DEPTH_TO_SPACE", "SPACE_TO_DEPTH", "REVERSE_V2", "BROADCAST_TO", "RESIZE_NEAREST_NEIGHBOR", "REDUCE_MAX",
    "REDUCE_MIN",
})  # fmt: skip
"""Operators of one value whose result holds only numbers that were stored."""
_JOINING: Final = frozenset({"CONCATENATION", "PACK", "MAXIMUM", "MINIMUM", "SELECT_V2"})
"""The same of several values: on one grid they give the same numbers, whenever they are rounded."""
_NEAR: Final = 2e-5
"""How far a number may be from its grid, in steps for each step from zero: float32 rounds a product twice."""
_FINE: Final = Quantization((1 / 32768,), (0,))
_VALID: Final = 1


@dataclass(frozen=True)
class Sources:
    """What the source says of constants. grids: `SourceQuantization.grids`."""

    grids: Mapping[str, tuple[Grid, ...]]

    def of(self, op: Op) -> tuple[Grid, ...]:
        """Return the grids that constants of an operator may have."""
        return self.grids.get(op.source, ())


def carried(graph: Graph, adapter: str, grids: Mapping[str, tuple[Grid, ...]], *, io_dtype: str = "float32") -> Graph:
    """Return the graph in int8 on the source's grids. grids: of the constants that a node reads, by `Op.source`.

    io_dtype: float32, int8 or uint8: type of inputs and outputs that are float32 in the source and on a grid there.
    Runs tables in the runtime; raises ModelLoadError, RunError.
    """
    chains = tables.chains(graph, adapter, frozenset())
    graph, stands_for = tables.with_tables(graph, chains)
    return _Carrier(graph, adapter, Sources(grids), stands_for).run(io_dtype)


def in_int8(graph: Graph) -> int:
    """Return how many operators compute in int8."""
    moving = _MOVING | {"QUANTIZE", "DEQUANTIZE", "CONCATENATION", "PACK"}
    return sum(op.code not in moving and _reads_int8(op) for op in graph.ops)


def _reads_int8(op: Op) -> bool:
    return any(t is not None and t.dtype == "int8" and t.quantization is not None for t in op.inputs)


class _Carrier:
    """One graph on its way. A value may exist as float32, as int8 on its grid, or as both."""

    def __init__(self, graph: Graph, adapter: str, sources: Sources, chains: Mapping[int, tables.Chain]) -> None:
        self._graph, self._adapter, self._sources, self._chains = graph, adapter, sources, chains
        self._readers: dict[int, list[Op | None]] = {}
        for op in graph.ops:
            for tensor in op.inputs:
                self._readers.setdefault(id(tensor), []).append(op)
        for tensor in graph.outputs:
            self._readers.setdefault(id(tensor), []).append(None)
        self._wanted = self._asked_for()
        self._floats: dict[int, Tensor] = {id(t): t for t in graph.inputs if t.dtype == "float32"}
        self._ints: dict[int, Tensor] = {}
        self._again: dict[tuple[int, Quantization], Tensor] = {}
        self._ops: list[Op] = []

    def run(self, io_dtype: str) -> Graph:
        """Rewrite all operators and close the edges."""
        inputs = tuple(self._input(t, io_dtype) for t in self._graph.inputs)
        for op in self._graph.ops:
            if op.code == "QUANTIZE" and op.inputs[0] is not None and op.inputs[0].dtype == "float32":
                self._put(op)
            elif op.code == "DEQUANTIZE" and id(op.inputs[0]) in self._ints:
                self._ints[id(op.outputs[0])] = self._ints[id(op.inputs[0])]
            elif op.code == tables.TABLE:
                self._table(op, self._chains[id(op)])
            elif not self._int8(op) and not self._decided(op):
                self._float(op)
        outputs = tuple(self._output(t, io_dtype) for t in self._graph.outputs)
        return Graph(inputs, outputs, tuple(self._ops))

    def _asked_for(self) -> dict[int, Quantization]:
        """Return id of float32 tensor -> the grid that its only reader puts it on, perhaps behind operators that move it."""
        wanted: dict[int, Quantization] = {}
        for op in reversed(self._graph.ops):
            out = op.outputs[0]
            grid = out.quantization if op.code == "QUANTIZE" else wanted.get(id(out))
            if grid is None or (op.code != "QUANTIZE" and op.code not in _MOVING | _JOINING):
                continue
            for tensor in op.inputs:
                if tensor is not None and tensor.dtype == "float32" and self._read_by(tensor, op):
                    wanted[id(tensor)] = grid
        return wanted

    def _read_by(self, tensor: Tensor, op: Op) -> bool:
        return all(reader is op for reader in self._readers.get(id(tensor), ()))

    # --- edges -------------------------------------------------------------------------------------------------------

    def _input(self, tensor: Tensor, io_dtype: str) -> Tensor:
        grid = self._wanted.get(id(tensor))
        if io_dtype == "float32" or grid is None:
            return tensor
        del self._floats[id(tensor)]
        if io_dtype == "int8":
            self._ints[id(tensor)] = replace(tensor, dtype="int8", quantization=grid)
            return self._ints[id(tensor)]
        edge = replace(tensor, dtype="uint8", quantization=unsigned(grid))
        self._ints[id(tensor)] = self._quantized(edge, grid, tensor.name)
        return edge

    def _output(self, tensor: Tensor, io_dtype: str) -> Tensor:
        stored = self._ints.get(id(tensor))
        if stored is None or stored.quantization is None or io_dtype == "float32" or id(tensor) in self._floats:
            return self._as_float(tensor)
        kind = stored.quantization if io_dtype == "int8" else unsigned(stored.quantization)
        edge = replace(tensor, dtype=io_dtype, quantization=kind)
        if io_dtype == "uint8" or not any(t is stored for op in self._ops for t in op.outputs):
            self._ops.append(Op("QUANTIZE", (stored,), (edge,)))
            return edge
        self._ops = [renamed(op, stored, edge) for op in self._ops]
        self._ints = {key: edge if held is stored else held for key, held in self._ints.items()}
        return edge

    # --- values ------------------------------------------------------------------------------------------------------

    def _put(self, op: Op) -> None:
        """Put a value on its grid."""
        source, out = op.inputs[0], op.outputs[0]
        assert source is not None
        assert out.quantization is not None
        if id(source) in self._ints:
            self._ints[id(out)] = self._on(source, out.quantization)
            return
        self._ops.append(replace(op, inputs=(self._floats.get(id(source), source),)))
        self._ints[id(out)] = out

    def _on(self, tensor: Tensor, grid: Quantization) -> Tensor:
        """Return a stored value on a grid, which may be another than its own."""
        held = self._ints[id(tensor)]
        if held.quantization == grid:
            return held
        key = (id(held), grid)
        if key not in self._again:
            self._again[key] = self._quantized(held, grid, f"{tensor.name}_{len(self._again)}")
        return self._again[key]

    def _quantized(self, source: Tensor, grid: Quantization, name: str) -> Tensor:
        made = Tensor(f"{name}_int8", "int8", source.shape, quantization=grid)
        self._ops.append(Op("QUANTIZE", (source,), (made,)))
        return made

    def _as_float(self, tensor: Tensor) -> Tensor:
        if tensor.data is not None or tensor.dtype != "float32" or id(tensor) in self._floats:
            return tensor
        self._ops.append(Op("DEQUANTIZE", (self._ints[id(tensor)],), (tensor,)))
        self._floats[id(tensor)] = tensor
        return tensor

    def _float(self, op: Op) -> None:
        self._ops.append(replace(op, inputs=tuple(None if t is None else self._as_float(t) for t in op.inputs)))
        self._floats.update({id(t): t for t in op.outputs if t.dtype == "float32"})

    # --- operators ---------------------------------------------------------------------------------------------------

    def _int8(self, op: Op) -> bool:
        """Write the operator in int8; False, with nothing written, where it must stay float32."""
        kernel = kernel_of(op, self._adapter)
        flowing = [t for t in op.inputs if t is not None and t.dtype == "float32" and t.data is None]
        if kernel is None or not all(id(t) in self._ints for t in flowing):
            return False
        result = self._wanted.get(id(op.outputs[0]))
        if kernel.scales == "same":
            return self._moved(op, flowing, result)
        if result is None or not flowing:
            return False
        if kernel.scales == "weighted":
            return self._weighted(op, kernel, result)
        return self._computed(op, kernel, result)

    def _moved(self, op: Op, flowing: list[Tensor], result: Quantization | None) -> bool:
        """Write an operator that reads and writes one grid."""
        grids = {self._ints[id(t)].quantization for t in flowing}
        constants = [t for t in op.inputs if t is not None and t.dtype == "float32" and t.data is not None]
        if not flowing and len(constants) == 1:
            grids = {
                Quantization(g.scale, g.zero) for g in self._sources.of(op) if _on_grid(constants[0], g) is not None
            }
            grids = set(list(grids)[:1])
        own = next(iter(grids)) if len(grids) == 1 else None
        if op.code not in _MOVING | _JOINING:
            if op.code == "AVERAGE_POOL_2D" and own != result and result is not None:
                return self._averaged(op, result)
            if result is None:
                return False
        grid = own if own is not None else result
        if grid is None:
            return False
        given: list[Tensor | None] = []
        for tensor in op.inputs:
            if tensor is None or tensor.dtype != "float32":
                given.append(tensor)
            elif tensor.data is None:
                given.append(self._on(tensor, grid))
            else:
                stored = self._filled(op, tensor, grid)
                if stored is None:
                    return False
                given.append(stored)
        self._write(op, given, grid)
        return True

    def _filled(self, op: Op, tensor: Tensor, grid: Quantization) -> Tensor | None:
        """Return a constant on a grid; None where it is not there. What is below all numbers of a maximum is their lowest."""
        stored = _on_grid(tensor, Grid(grid.scale, grid.zero_point))
        readers = self._readers.get(id(op.outputs[0]), ())
        lowest = op.code == "PADV2" and all(reader is not None and reader.code == "MAX_POOL_2D" for reader in readers)
        if stored is None and lowest and float(tensor.constant.max()) <= (-128 - grid.zero_point[0]) * grid.scale[0]:
            stored = np.full(tensor.shape, -128, np.int8)
        return None if stored is None else _constant(tensor, stored, grid)

    def _computed(self, op: Op, kernel: Kernel, result: Quantization) -> bool:
        """Write an operator whose inputs and result have grids of their own."""
        given: list[Tensor | None] = []
        for tensor in op.inputs:
            if tensor is None or tensor.dtype != "float32":
                given.append(tensor)
            elif tensor.data is None:
                given.append(self._ints[id(tensor)])
            else:
                stored = self._constant(op, tensor)
                if stored is None:
                    return False
                given.append(stored)
        scales = [(t, t.quantization) for t in given if t is not None and t.quantization is not None]
        if not fits(op, list(scales), result):
            return False
        if kernel.result is None or kernel.result == result:
            self._write(op, given, result)
        elif op.code == "SOFTMAX":
            self._write(replace(op, outputs=(replace(op.outputs[0], dtype="int16"),)), given, _FINE)
            self._ints[id(op.outputs[0])] = self._quantized(self._ops[-1].outputs[0], result, op.outputs[0].name)
        elif self._is_better_table(op, kernel.result, result):
            self._table(op, tables.Chain(_data(op), op.outputs[0], (op,)))
        else:
            self._write(op, given, kernel.result)
        return True

    def _is_better_table(self, op: Op, own: Quantization, result: Quantization) -> bool:
        """Say whether a table should do what a kernel rounds to its own scale first; large values are slow to look up."""
        chain = tables.Chain(_data(op), op.outputs[0], (op,))
        return len(op.inputs) == 1 and (result.scale[0] < own.scale[0] or not tables.is_slow(chain, self._adapter))

    def _write(self, op: Op, given: list[Tensor | None], grid: Quantization) -> None:
        out = op.outputs[0]
        dtype = "int16" if out.dtype == "int16" else "int8"
        made = replace(out, name=f"{out.name}_{dtype}", dtype=dtype, quantization=grid)
        self._ops.append(replace(op, inputs=tuple(given), outputs=(made,)))
        self._ints[id(out)] = made

    def _constant(self, op: Op, tensor: Tensor) -> Tensor | None:
        """Return a constant with the numbers that the source stores, or on any grid that holds it exactly."""
        for grid in self._sources.of(op):
            stored = _on_grid(tensor, grid)
            if stored is not None:
                return _constant(tensor, stored, Quantization(grid.scale, grid.zero))
        bounds = (float(tensor.constant.min(initial=0.0)), float(tensor.constant.max(initial=0.0)))
        if not affine.finite(bounds):
            return None
        own = affine.activation(bounds)
        stored = _on_grid(tensor, Grid(own.scale, own.zero_point))
        return None if stored is None else _constant(tensor, stored, own)

    def _weighted(self, op: Op, kernel: Kernel, result: Quantization) -> bool:
        """Write an operator with weights of the source's own numbers and a bias at input scale x weight scale."""
        data, position = 2 if op.code == "TRANSPOSE_CONV" else 0, bias_position(op)
        x, weights = op.inputs[data], op.inputs[1]
        assert x is not None
        assert weights is not None
        axis = 0 if op.code == "FULLY_CONNECTED" else kernel.axis
        found = next((w for g in self._sources.of(op) if (w := _symmetric(weights, g, axis)) is not None), None)
        stored = self._ints[id(x)]
        if found is None or stored.quantization is None or found.quantization is None:
            return False
        scales = np.array(found.quantization.scale)
        bias = op.inputs[position] if position < len(op.inputs) else None
        given = [self._ints[id(t)] if t is x else t for t in op.inputs]
        given[1] = found
        if bias is not None:
            room = affine.room_for_bias(scales, bias.constant, stored.quantization.scale[0])
            if not np.allclose(room, scales):
                return False
            given[position] = affine.bias_as(bias, stored.quantization.scale[0], scales)
        if len(scales) > 1 and kernel.axis is None:
            return self._as_conv(op, given, result)
        self._write(op, given, result)
        return True

    def _as_conv(self, op: Op, given: list[Tensor | None], result: Quantization) -> bool:
        """Write FULLY_CONNECTED with scales for each channel as a 1 x 1 convolution over rows."""
        x, weights = given[0], given[1]
        assert x is not None
        assert weights is not None
        out = op.outputs[0]
        rows, deep, wide = math.prod(out.shape[:-1]), weights.shape[1], weights.shape[0]
        lifted = replace(x, name=f"{out.name}/rows", shape=(1, rows, 1, deep))
        made = Tensor(f"{out.name}/product", "int8", (1, rows, 1, wide), quantization=result)
        kernel = replace(weights, shape=(wide, 1, 1, deep), data=weights.constant.reshape(wide, 1, 1, deep))
        options = {
            "padding": _VALID, "stride_w": 1, "stride_h": 1, "dilation_w_factor": 1, "dilation_h_factor": 1,
            "fused_activation_function": op.options.get("fused_activation_function", 0),
        }  # fmt: skip
        self._ops += [_reshape(x, lifted), Op("CONV_2D", (lifted, kernel, *given[2:]), (made,), options, op.source)]
        self._ints[id(out)] = replace(out, name=f"{out.name}_int8", dtype="int8", quantization=result)
        self._ops.append(_reshape(made, self._ints[id(out)]))
        return True

    def _averaged(self, op: Op, result: Quantization) -> bool:
        """Write an average that goes to another grid with one rounding where it can be a convolution, else with two."""
        x = _data(op)
        stored = self._ints[id(x)]
        if op.options.get("padding") != _VALID or op.options.get("fused_activation_function"):
            assert stored.quantization is not None
            self._write(op, [stored], stored.quantization)
            return True
        conv = as_convolution(op)
        _, weights, bias = conv.inputs
        assert weights is not None
        assert bias is not None
        assert stored.quantization is not None
        scales = affine.weight_scales(weights.constant, 3)
        given = [
            stored,
            affine.weights_as(weights, scales, 3),
            affine.bias_as(bias, stored.quantization.scale[0], scales),
        ]
        self._write(conv, list(given), result)
        return True

    def _table(self, op: Op, chain: tables.Chain) -> None:
        """Write a function of one stored value as a table, or its own operators where there is no grid before or behind."""
        held, result = self._ints.get(id(chain.source)), self._wanted.get(id(op.outputs[0]))
        if held is None or held.quantization is None or result is None:
            for each in chain.ops:
                if not self._int8(each):
                    self._float(each)
            return
        points = (np.arange(-128, 128) - held.quantization.zero_point[0]) * held.quantization.scale[0]
        numbers = tables.entries(chain, points, result, self._adapter)
        ops, self._ints[id(op.outputs[0])] = tables.looked_up(op, held, -128, numbers, result)
        self._ops += ops

    def _decided(self, op: Op) -> bool:
        """Write a choice among the numbers of one stored value: the same as among its real values."""
        flowing = [t for t in op.inputs if t is not None and t.dtype == "float32"]
        if op.code not in DECIDING_INT8 or len(flowing) != 1 or id(flowing[0]) not in self._ints:
            return False
        if op.outputs[0].dtype == "float32" or len([t for t in op.inputs if t is not None and t.data is None]) != 1:
            return False
        self._ops.append(
            replace(op, inputs=tuple(self._ints.get(id(t), t) if t is not None else None for t in op.inputs))
        )
        return True


def _data(op: Op) -> Tensor:
    tensor = op.inputs[0]
    assert tensor is not None
    return tensor


def _reshape(x: Tensor, out: Tensor) -> Op:
    sizes = constant(f"{out.name}/shape", np.array(out.shape, np.int32))
    return Op("RESHAPE", (x, sizes), (out,), {"new_shape": out.shape})


def _constant(tensor: Tensor, stored: Array, grid: Quantization) -> Tensor:
    return replace(tensor, name=f"{tensor.name}_int8", dtype="int8", data=stored, quantization=grid)


def _whole(values: Array, scale: Array) -> Array | None:
    """Return real values in steps of a scale, int64; None where one is not a whole number of steps."""
    steps = values.astype(np.float64) / scale
    if not np.isfinite(steps).all():
        return None
    whole = np.rint(steps)
    near = np.abs(steps - whole) <= _NEAR * np.maximum(np.abs(whole), 1.0)
    return whole.astype(np.int64) if near.all() and np.abs(whole).max(initial=0.0) < 1 << 20 else None


def _on_grid(tensor: Tensor, grid: Grid) -> Array | None:
    """Return the int8 numbers of a constant on a grid of one scale; None where it is not on it."""
    if len(grid.scale) != 1:
        return None
    whole = _whole(tensor.constant, np.array(grid.scale[0]))
    if whole is None:
        return None
    stored = whole + grid.zero[0]
    return stored.astype(np.int8) if stored.min(initial=0) >= -128 and stored.max(initial=0) <= 127 else None


def _symmetric(tensor: Tensor, grid: Grid, axis: int | None) -> Tensor | None:
    """Return weights as symmetric int8 with the scales of a grid, or with those of a part of its channels."""
    values = tensor.constant
    channels = values.shape[axis] if axis is not None else 1
    many = len(set(grid.scale)) > 1 and axis is not None
    if len(set(grid.scale)) > 1 and (axis is None or len(grid.scale) % channels):
        return None
    for start in range(0, len(grid.scale) if many else 1, channels if many else 1):
        part = grid.scale[start : start + channels] if many else grid.scale[:1]
        shape = [-1 if many and i == axis else 1 for i in range(values.ndim)]
        whole = _whole(values, np.array(part).reshape(shape))
        if whole is not None and np.abs(whole).max(initial=0) <= 127:
            kind = Quantization(part, (0,) * len(part), axis or 0) if many else Quantization(part, (0,))
            return replace(
                tensor, name=f"{tensor.name}_int8", dtype="int8", data=whole.astype(np.int8), quantization=kind
            )
    return None
