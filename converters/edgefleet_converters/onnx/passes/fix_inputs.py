"""Give an input one value for good, so that it is no input any more.

A sample rate or a mode that never changes on a device keeps whole branches of a model alive; once it is a stored value, they
fold away (`inline_if`).
"""

import cmath
import math
from collections.abc import Mapping

import numpy as np
import onnx
from onnx import helper, numpy_helper

MAX_ELEMENTS = 1_000_000


class FixInputs:
    """Case 1: an input named in `values` becomes a stored tensor of its shape, filled with the value. Others stay."""

    name = "fix-inputs"
    required = True

    def __init__(self, values: Mapping[str, float]) -> None:
        """values: input name -> number."""
        self._values = dict(values)

    def requires(self, model: onnx.ModelProto) -> str:
        """Each named input is a tensor of numbers with fixed dimensions, its type holds the value, and one input is left."""
        inputs = {value.name: value for value in model.graph.input}
        for name, number in self._values.items():
            if name not in inputs:
                return f"the model has no input {name!r}"
            tensor = inputs[name].type.tensor_type
            dims = [dim.dim_value for dim in tensor.shape.dim]
            if not all(dim > 0 for dim in dims) or math.prod(dims) > MAX_ELEMENTS:
                return f"input {name!r} has open dimensions; fix its shape first"
            if tensor.elem_type == onnx.TensorProto.STRING or tensor.elem_type not in helper.get_all_tensor_dtypes():
                return f"input {name!r} does not hold numbers"
            dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type)
            if not _holds(dtype, number):
                return f"input {name!r} is {dtype.name}, which does not hold {number:g}"
        stored = {tensor.name for tensor in model.graph.initializer}
        return "" if inputs.keys() - self._values.keys() - stored else "no input would be left"

    def apply(self, model: onnx.ModelProto) -> tuple[onnx.ModelProto, bool]:
        """Return the model without these inputs; the value takes the place of a stored default."""
        after = onnx.ModelProto()
        after.CopyFrom(model)
        for tensor in [t for t in after.graph.initializer if t.name in self._values]:
            after.graph.initializer.remove(tensor)
        kept = [value for value in after.graph.input if value.name not in self._values]
        for value in after.graph.input:
            if value.name not in self._values:
                continue
            tensor = value.type.tensor_type
            dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type)
            array = np.full([dim.dim_value for dim in tensor.shape.dim], self._values[value.name]).astype(dtype)
            after.graph.initializer.append(numpy_helper.from_array(array, value.name))
        del after.graph.input[:]
        after.graph.input.extend(kept)
        after.ir_version = max(after.ir_version, 4)
        return after, bool(self._values)

    def ensures(self, before: onnx.ModelProto, after: onnx.ModelProto) -> str:
        """Exactly the named inputs are gone."""
        wanted = [value.name for value in before.graph.input if value.name not in self._values]
        return "" if [value.name for value in after.graph.input] == wanted else "other inputs changed"


def _holds(dtype: np.dtype, number: float) -> bool:  # type: ignore[type-arg]
    """Return whether a type holds a number: whole ones and truth values exactly, others rounded but finite."""
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        return float(number).is_integer() and int(limits.min) <= number <= int(limits.max)
    with np.errstate(over="ignore"):
        held = complex(np.array(number).astype(dtype))
    return held == number if dtype.kind == "b" or "int" in dtype.name else cmath.isfinite(held)
