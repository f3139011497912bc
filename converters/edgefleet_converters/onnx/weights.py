"""Store weights in fewer bits while the arithmetic stays float32.

Forms, per stored tensor:

1. 8 bits: int8 with one scale an output channel, then Cast and Mul. onnxruntime folds both when it loads the model, so a run
   costs what float32 costs, and so does memory (measured: 0.355 ms against 0.355 ms for a 512 x 4096 product). A
   DequantizeLinear is not folded there and would be paid at each run. With a zero point a channel it is Cast, Sub and Mul.
2. 16 bits: float16, then Cast; folded in the same way. A tensor with a value beyond float16 stays float32. Or int16 with one
   scale an output channel, as form 1: as small, and nearer to the weights by a factor of about 8 (of 100 text lines that a
   recogniser read, float16 changed 2 and int16 none). A tensor whose channels each have one weight that dwarfs the rest stays float16.
3. 4 bits: a product with a stored right side becomes com.microsoft MatMulNBits (`onnx.block_weights`); weights of other operators
   get 8 bits.

Only tensors that an operator of `_PLACES` takes as weights, of at least `MIN_ELEMENTS` values, are touched; constants of
shapes and of arithmetic are not.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgefleet_converters.onnx.block_weights import MIN_ELEMENTS, stored_in_blocks
from edgefleet_converters.onnx.walk import all_nodes, fresh_name, value_names

Array = npt.NDArray[Any]

_HALF_MAX: Final = 65504.0
_DWARFED: Final = 256
"""A weight so many times smaller than its channel's largest has at most 7 bits of 16 left."""
_INT8_LEVELS: Final = 127
_INT16_LEVELS: Final = 32767
_PLACES: Final[Mapping[str, tuple[int, ...]]] = {
    "Conv": (1,), "ConvTranspose": (1,), "MatMul": (0, 1), "Gemm": (0, 1), "LSTM": (1, 2), "GRU": (1, 2), "RNN": (1, 2),
    "Gather": (0,),
}  # fmt: skip
"""Operator -> the inputs that are weights when they are stored."""


@dataclass(frozen=True)
class Weight:
    """A stored float32 tensor that an operator uses as its weights. axes: that share one scale each (kept apart)."""

    name: str
    axes: tuple[int, ...]


def weights_of(model: onnx.ModelProto) -> list[Weight]:
    """Return the weights of the main graph, in the order of the nodes (also of subgraphs) that use them."""
    stored = {t.name: t for t in model.graph.initializer if t.data_type == TensorProto.FLOAT}
    found: dict[str, Weight] = {}
    outputs = {value.name for value in model.graph.output}
    for node in all_nodes(model):
        for place in _PLACES.get(node.op_type, ()):
            name = node.input[place] if place < len(node.input) else ""
            tensor = stored.get(name)
            if tensor is None or name in found or name in outputs or int(np.prod(tensor.dims)) < MIN_ELEMENTS:
                continue
            found[name] = Weight(name, channel_axes(node, place, len(tensor.dims)))
    return list(found.values())


def channel_axes(node: onnx.NodeProto, place: int, rank: int) -> tuple[int, ...]:
    """Return the axes along which each index has a scale of its own: the output channels of the operator."""
    if node.op_type in ("LSTM", "GRU", "RNN"):
        return (0, 1)
    if node.op_type == "ConvTranspose":
        return (1,)
    if node.op_type == "Conv":
        return (0,)
    if node.op_type == "Gather":  # of what it reads as one: a row, or a column of a product's matrix
        return (next((a.i for a in node.attribute if a.name == "axis"), 0) % rank,)
    side = "transA" if place == 0 else "transB"
    turned = any(a.name == side and a.i for a in node.attribute)
    # The product's own rows (left side) or columns (right side) are the channels.
    last = (place == 1) != turned
    return (rank - 1,) if last else (max(0, rank - 2),)


def store_weights(
    model: onnx.ModelProto, bits: int, *, half: frozenset[str] = frozenset(), kept: frozenset[str] = frozenset(),
    whole: bool = False, zero: bool = False,
) -> onnx.ModelProto:  # fmt: skip
    """Return the model with its weights stored in `bits` (4, 8 or 16).

    half: tensor names stored in 16 bits instead. kept: tensor names left float32. whole: 16 bits are int16 with scales, not
    float16. zero: 8 bits have a zero point a channel. Tensors that would not shrink stay.
    """
    after = onnx.ModelProto()
    after.CopyFrom(stored_in_blocks(model, 4, untouched=half | kept) if bits == 4 else model)
    plan = {w.name: w for w in weights_of(after) if w.name not in kept}
    tensors = {t.name: t for t in after.graph.initializer}
    taken = value_names(after)
    nodes: list[onnx.NodeProto] = []
    small: _Small | None
    for name, weight in plan.items():
        values = numpy_helper.to_array(tensors[name])
        if bits == 16 or name in half:
            even = whole and _is_even(values, weight.axes)
            small = _rounded(values, weight.axes, _INT16_LEVELS) if even else _halved(values)
        else:
            small = _shifted(values, weight.axes) if zero else _rounded(values, weight.axes)
        if small is None:
            continue
        made, added = _restored(name, small, taken)
        nodes += made
        after.graph.initializer.remove(tensors[name])
        after.graph.initializer.extend(added)
    kept_nodes = list(after.graph.node)
    del after.graph.node[:]
    after.graph.node.extend([*nodes, *kept_nodes])
    return after


def _halved(values: Array) -> "_Small | None":
    if float(np.abs(values).max(initial=0.0)) > _HALF_MAX:
        return None
    return _Small(values.astype(np.float16))


@dataclass(frozen=True)
class _Small:
    """A tensor in fewer bits: (values - zero) * scale; None where there is none. scale and zero: float32 that broadcast."""

    values: Array
    scale: Array | None = None
    zero: Array | None = None


def _is_even(values: Array, axes: tuple[int, ...]) -> bool:
    """Return whether most weights are no dwarfs next to the largest of their channel, whose scale would erase them."""
    sizes = np.moveaxis(np.abs(values), axes, range(len(axes))).reshape(*(values.shape[axis] for axis in axes), -1)
    small = (sizes > 0) & (sizes * _DWARFED < sizes.max(axis=-1, keepdims=True))
    return bool(2 * small.sum() <= (sizes > 0).sum())


def rounded(values: Array, axes: tuple[int, ...], levels: int = _INT8_LEVELS) -> Array:
    """Return float32 `values` as they are after a trip through int8 with one scale for each index along `axes`."""
    small = _rounded(values, axes, levels)
    assert small.scale is not None
    there: Array = small.values.astype(np.float32) * small.scale
    return there


def _rounded(values: Array, axes: tuple[int, ...], levels: int = _INT8_LEVELS) -> _Small:
    """Return whole numbers of -levels … levels, int8 or int16, and their scales."""
    others = tuple(axis for axis in range(values.ndim) if axis not in axes)
    largest = np.abs(values).max(axis=others, keepdims=True).astype(np.float32)
    scale = np.where(largest > 0, largest / levels, 1).astype(np.float32)
    kind = np.int8 if levels <= _INT8_LEVELS else np.int16
    return _Small(np.clip(np.rint(values / scale), -levels, levels).astype(kind), scale)


def _shifted(values: Array, axes: tuple[int, ...]) -> _Small:
    """Return whole numbers of -128 … 127 that span each channel's own lowest and highest value, 0 among them."""
    others = tuple(axis for axis in range(values.ndim) if axis not in axes)
    low = np.minimum(values.min(axis=others, keepdims=True), 0).astype(np.float32)
    high = np.maximum(values.max(axis=others, keepdims=True), 0).astype(np.float32)
    scale = np.where(high > low, (high - low) / 255, 1).astype(np.float32)
    zero = np.rint(-128 - low / scale).astype(np.float32)
    return _Small(np.clip(np.rint(values / scale) + zero, -128, 127).astype(np.int8), scale, zero)


def _restored(name: str, small: _Small, taken: set[str]) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Return the nodes that make the tensor `name` float32 again, and the tensors they need."""
    values, scale, zero = small.values, small.scale, small.zero
    packed = fresh_name(f"{name}_q", taken)
    if scale is None:
        cast = helper.make_node("Cast", [packed], [name], name=f"{packed}_cast", to=TensorProto.FLOAT)
        return [cast], [numpy_helper.from_array(values, packed)]
    factor, whole = fresh_name(f"{name}_s", taken), fresh_name(f"{name}_f", taken)
    nodes = [helper.make_node("Cast", [packed], [whole], name=f"{packed}_cast", to=TensorProto.FLOAT)]
    tensors = [numpy_helper.from_array(values, packed), numpy_helper.from_array(scale, factor)]
    if zero is not None:
        start, moved = fresh_name(f"{name}_z", taken), fresh_name(f"{name}_m", taken)
        nodes.append(helper.make_node("Sub", [whole, start], [moved], name=f"{packed}_sub"))
        tensors.append(numpy_helper.from_array(zero, start))
        whole = moved
    nodes.append(helper.make_node("Mul", [whole, factor], [name], name=f"{packed}_mul"))
    return nodes, tensors
