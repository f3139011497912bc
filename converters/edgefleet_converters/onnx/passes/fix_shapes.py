"""Give open input dimensions a fixed size."""

from collections.abc import Mapping, Sequence

import onnx


class FixShapes:
    """Case 1: an input listed in `shapes` gets exactly that shape. Case 2: other inputs stay as they are."""

    name = "fix-shapes"
    required = True

    def __init__(self, shapes: Mapping[str, Sequence[int]]) -> None:
        """shapes: input name -> full shape."""
        self._shapes = {name: tuple(shape) for name, shape in shapes.items()}

    def requires(self, model: onnx.ModelProto) -> str:
        """Each given shape has the rank of its input and keeps dimensions that are already fixed."""
        values = {value.name: value for value in model.graph.input}
        for name, shape in self._shapes.items():
            if name not in values:
                return f"the model has no input {name!r}"
            dims = values[name].type.tensor_type.shape.dim
            if len(dims) != len(shape) or any(
                d.dim_value > 0 and d.dim_value != s for d, s in zip(dims, shape, strict=True)
            ):
                return f"shape {list(shape)} does not fit input {name!r}"
        return ""

    def apply(self, model: onnx.ModelProto) -> tuple[onnx.ModelProto, bool]:
        """Return the model with fixed inputs; inferred shapes inside are dropped since they may name the open dimension."""
        after = onnx.ModelProto()
        after.CopyFrom(model)
        changed = False
        for value in after.graph.input:
            for dim, size in zip(value.type.tensor_type.shape.dim, self._shapes.get(value.name, ()), strict=False):
                changed = changed or dim.dim_value != size
                dim.dim_value = size
        if not changed:
            return model, False
        del after.graph.value_info[:]
        for value in after.graph.output:
            for dim in value.type.tensor_type.shape.dim:
                if dim.WhichOneof("value") == "dim_param":
                    dim.Clear()
        return onnx.shape_inference.infer_shapes(after, data_prop=True), True

    def ensures(self, before: onnx.ModelProto, after: onnx.ModelProto) -> str:
        """Names and order of inputs and outputs are the same."""
        same = [v.name for v in before.graph.input] == [v.name for v in after.graph.input]
        return "" if same and len(before.graph.output) == len(after.graph.output) else "inputs or outputs changed"
