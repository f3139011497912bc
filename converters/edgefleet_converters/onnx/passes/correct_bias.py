"""Take the mean error of rounded weights out of the biases.

A weight W is stored as Ŵ; on an input x the layer is off by (Ŵ - W)·x, which does not average to zero where x has a mean, as
it has behind SiLU and ReLU. With E[x] per input channel from calibration, (Ŵ - W)·E[x] is subtracted from the bias. The rule
is that of Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction", §4.2, with
measured means.
"""

from collections.abc import Mapping, Set
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from edgefleet_converters.onnx.walk import attributes_of
from edgefleet_converters.onnx.weights import channel_axes, rounded

Array = npt.NDArray[Any]

CORRECTED: Final = ("Conv", "Gemm")


class CorrectBias:
    """Case 1: Conv with a stored weight gets a corrected bias, made when it has none. Case 2: Gemm with a stored bias.

    Case 3: other nodes, nodes without a known mean and those whose weight is not in `levels` stay.
    """

    name = "correct-bias"
    required = False

    def __init__(
        self, means: Mapping[str, Array], levels: Mapping[str, int], one_scale: Set[str] = frozenset()
    ) -> None:
        """means: input tensor -> E[x] per channel. levels: weight that becomes int8 -> its largest number, 127 or 63.

        one_scale: weights that get one scale in all; the others have one an output channel.
        """
        self._means, self._levels, self._one_scale = means, levels, one_scale

    def requires(self, model: onnx.ModelProto) -> str:
        """Needs a layer with a known input mean."""
        known = any(node.op_type in CORRECTED and node.input[0] in self._means for node in model.graph.node)
        return "" if known else "no layer has a known input mean"

    def apply(self, model: onnx.ModelProto) -> tuple[onnx.ModelProto, bool]:
        """Return the model with new biases; a bias that several nodes share stays."""
        after = onnx.ModelProto()
        after.CopyFrom(model)
        stored = {tensor.name: tensor for tensor in after.graph.initializer}
        uses: dict[str, int] = {}
        for node in after.graph.node:
            for name in node.input:
                uses[name] = uses.get(name, 0) + 1
        changed = False
        for index, node in enumerate(after.graph.node):
            weight, mean = stored.get(node.input[1]) if len(node.input) > 1 else None, self._means.get(node.input[0])
            if node.op_type not in CORRECTED or weight is None or mean is None or weight.name not in self._levels:
                continue
            values = numpy_helper.to_array(weight)
            axes = () if weight.name in self._one_scale else channel_axes(node, 1, values.ndim)
            error = rounded(values, axes, self._levels[weight.name]) - values
            shift = _shift(node, error, mean)
            bias = stored.get(node.input[2]) if len(node.input) > 2 else None
            if shift is None or (bias is None and (node.op_type != "Conv" or len(node.input) > 2)):
                continue
            if bias is not None and (uses[bias.name] > 1 or numpy_helper.to_array(bias).size != shift.size):
                continue
            _set_bias(after, node, bias, shift, index)
            changed = True
        return after, changed

    def ensures(self, before: onnx.ModelProto, after: onnx.ModelProto) -> str:
        """All biases are finite."""
        names = {node.input[2] for node in after.graph.node if node.op_type in CORRECTED and len(node.input) > 2}
        tensors = [t for t in after.graph.initializer if t.name in names]
        return "" if all(bool(np.isfinite(numpy_helper.to_array(t)).all()) for t in tensors) else "a bias is not finite"


def _shift(node: onnx.NodeProto, error: Array, mean: Array) -> Array | None:
    """Return E[(Ŵ - W)·x] per output channel; None where the mean has another width than the weight."""
    facts = attributes_of(node)
    if node.op_type == "Gemm":
        if facts.get("transA", 0) or facts.get("alpha", 1.0) != 1.0 or facts.get("beta", 1.0) != 1.0:
            return None
        matrix = error if facts.get("transB", 0) else error.T
        return matrix @ mean if matrix.shape[1] == len(mean) else None
    group = facts.get("group", 1)
    out, inner = error.shape[:2]
    if len(mean) != inner * group or out % group:
        return None
    sums = error.reshape(out, inner, -1).sum(axis=2)
    each = mean.reshape(group, inner).repeat(out // group, axis=0)
    shift: Array = (sums * each).sum(axis=1)
    return shift


def _set_bias(
    model: onnx.ModelProto, node: onnx.NodeProto, bias: onnx.TensorProto | None, shift: Array, index: int
) -> None:
    if bias is not None:
        old = numpy_helper.to_array(bias)
        bias.CopyFrom(numpy_helper.from_array((old - shift.reshape(old.shape)).astype(np.float32), bias.name))
        return
    name = f"{node.output[0]}_bias_{index}"
    model.graph.initializer.append(numpy_helper.from_array((-shift).astype(np.float32), name))
    node.input.append(name)
