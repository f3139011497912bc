"""Even out the channels of neighbouring layers.

Where nothing but positive-homogeneous operators lies between two layers, a factor s of a channel can move from the first
layer's weights into the second's without changing the function: relu(s·x) = s·relu(x) for s > 0. Channels of very unequal
size share one scale for activations, and small ones are lost; the factor sqrt(r1 · r2) / r1 makes their ranges r1 (in the
first layer) and r2 (in the second) equal. The rule is that of Nagel et al. 2019, §4.1 ("cross-layer equalization").
Factors are rounded to powers of two, so that float32 answers stay the same to the bit.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from edgefleet_converters.onnx.walk import attributes_of

Array = npt.NDArray[Any]

_HOMOGENEOUS: Final = ("Relu", "LeakyRelu", "MaxPool", "AveragePool", "GlobalAveragePool", "Identity", "Dropout")
_LAYERS: Final = ("Conv", "Gemm")
_SWEEPS: Final = 8
_WORTH: Final = 4.0
"""A pair is touched only when a channel is to be scaled by at least this factor."""


class Equalise:
    """Case 1: Conv -> homogeneous operators -> Conv of one group. Case 2: the same into or out of Gemm, also behind Flatten.

    Case 3: pairs whose first output is used elsewhere or is an output of the model, and all else, stay.
    """

    name = "equalise"
    required = False

    def requires(self, model: onnx.ModelProto) -> str:
        """Needs a pair."""
        return "" if _pairs(model) else "no two layers have only homogeneous operators between them"

    def apply(self, model: onnx.ModelProto) -> tuple[onnx.ModelProto, bool]:
        """Return the model with scaled weights and biases."""
        after = onnx.ModelProto()
        after.CopyFrom(model)
        stored = {tensor.name: tensor for tensor in after.graph.initializer}
        values = {
            name: numpy_helper.to_array(tensor).copy() for name, tensor in stored.items() if tensor.data_type == 1
        }
        pairs = _pairs(after)
        touched: set[str] = set()
        for _ in range(_SWEEPS):
            moved = [names for first, second, _ in pairs if (names := _move(first, second, values))]
            touched.update(name for names in moved for name in names)
            if not moved:
                break
        for name in touched:
            stored[name].CopyFrom(numpy_helper.from_array(values[name], name))
        return after, bool(touched)

    def ensures(self, before: onnx.ModelProto, after: onnx.ModelProto) -> str:
        """All stored values are finite."""
        floats = [t for t in after.graph.initializer if t.data_type == onnx.TensorProto.FLOAT]
        return "" if all(bool(np.isfinite(numpy_helper.to_array(t)).all()) for t in floats) else "a weight overflowed"


def evened(before: onnx.ModelProto, after: onnx.ModelProto) -> set[str]:
    """Return the names of the tensors that have other values in the equalised model: those between the layers of a changed pair.

    A factor is a power of two and is taken back by the second layer, so all else keeps its values to the bit.
    """
    old, new = ({tensor.name: tensor for tensor in model.graph.initializer} for model in (before, after))
    between: set[str] = set()
    for first, second, names in _pairs(before):
        if any(old[weight] != new[weight] for weight in (first.input[1], second.input[1])):
            between.update(names)
    return between


def _pairs(model: onnx.ModelProto) -> list[tuple[onnx.NodeProto, onnx.NodeProto, tuple[str, ...]]]:
    """Return the pairs of layers whose weights are stored and used once, each with the names of the tensors between them."""
    uses: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            uses.setdefault(name, []).append(node)
    outputs = {value.name for value in model.graph.output}
    stored = {tensor.name for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT}

    def own(node: onnx.NodeProto) -> bool:
        names = [name for name in node.input[1:] if name]
        return node.op_type in _LAYERS and all(name in stored and len(uses[name]) == 1 for name in names)

    pairs = []
    for first in model.graph.node:
        if not own(first) or not _plain(first):
            continue
        node, flat, between = first, False, []
        while True:
            between.append(node.output[0])
            users = uses.get(node.output[0], [])
            if len(users) != 1 or node.output[0] in outputs or any(node.output[1:]):
                break
            node = users[0]
            if own(node) and node.input[0] not in stored:
                fits = _plain(node) and (
                    node.op_type == "Gemm" if flat or first.op_type == "Gemm" else node.op_type == "Conv"
                )
                if fits and attributes_of(node).get("group", 1) == 1:
                    pairs.append((first, node, tuple(between)))
                break
            flat = flat or node.op_type == "Flatten"
            if node.op_type not in _HOMOGENEOUS and not (
                node.op_type == "Flatten" and attributes_of(node).get("axis", 1) == 1
            ):
                break
    return pairs


def _plain(node: onnx.NodeProto) -> bool:
    """Return whether a layer's weights are [out, in, …] (Conv, Gemm with transB) or [in, out], without other factors."""
    facts = attributes_of(node)
    return not facts.get("transA", 0) and facts.get("alpha", 1.0) == 1.0 and facts.get("beta", 1.0) == 1.0


def _move(first: onnx.NodeProto, second: onnx.NodeProto, values: dict[str, Array]) -> Sequence[str]:
    """Scale one pair in place in `values`. Returns the names of the changed tensors; none when it is even already."""
    names = [name for name in first.input[1:3] if name]
    one, two = _by_channel(first, values[names[0]], out=True), _by_channel(second, values[second.input[1]], out=False)
    channels = len(one)
    if two.shape[0] % channels:
        return ()
    spread = two.shape[0] // channels  # flattening puts the pixels of a channel side by side
    r1, r2 = np.abs(one).max(axis=1), np.abs(two).max(axis=1).reshape(channels, spread).max(axis=1)
    used = (r1 > 0) & (r2 > 0)
    if not used.any():
        return ()
    factor = np.ones(channels)
    factor[used] = np.exp2(np.rint(np.log2(np.sqrt(r1[used].astype(np.float64) * r2[used]) / r1[used])))
    if factor.max() < _WORTH and factor.min() > 1 / _WORTH:
        return ()
    _scale(first, values, names[0], factor, out=True)
    if len(names) > 1:
        values[names[1]] = (values[names[1]] * factor).astype(np.float32)
    _scale(second, values, second.input[1], 1 / factor.repeat(spread), out=False)
    return (*names, second.input[1])


def _axis(node: onnx.NodeProto, *, out: bool) -> int:
    rows_first = node.op_type == "Conv" or bool(attributes_of(node).get("transB", 0))
    return 0 if out == rows_first else 1


def _by_channel(node: onnx.NodeProto, weight: Array, *, out: bool) -> Array:
    moved = np.moveaxis(weight, _axis(node, out=out), 0)
    return moved.reshape(len(moved), -1)


def _scale(node: onnx.NodeProto, values: Mapping[str, Array], name: str, factor: Array, *, out: bool) -> None:
    shape = [1] * values[name].ndim
    shape[_axis(node, out=out)] = -1
    values[name][...] = (values[name] * factor.reshape(shape)).astype(np.float32)
