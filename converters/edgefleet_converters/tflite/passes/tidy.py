"""Take out what is computed twice or for nobody."""

from dataclasses import replace

import numpy as np

from edgefleet_converters.tflite.ir import Graph, Op, Tensor, constant
from edgefleet_converters.tflite.passes.contract import broken


class DropUnused:
    """Case 1: an operator whose results nobody reads goes. Case 2: all others stay."""

    name = "drop-unused"
    required = False

    def requires(self, _model: Graph) -> str:
        """Always runs."""
        return ""

    def apply(self, model: Graph) -> tuple[Graph, bool]:
        """Return the graph without unused operators."""
        needed = {id(t) for t in model.outputs}
        kept: list[Op] = []
        for op in reversed(model.ops):
            if any(id(t) in needed for t in op.outputs):
                kept.append(op)
                needed |= {id(t) for t in op.inputs if t is not None}
        return replace(model, ops=tuple(reversed(kept))), len(kept) != len(model.ops)

    def ensures(self, before: Graph, after: Graph) -> str:
        """Inputs, outputs and order are kept."""
        return broken(before, after)


class DropRoundTrips:
    """Case 1: a CAST to a wider type and back again goes (int32 -> int64 -> int32): ONNX has places in 64 bits, kernels in 32.

    Case 2: a CAST back that makes a graph output stays, since outputs have names of their own; it then reads the first value.
    Case 3: all others stay.
    """

    name = "drop-round-trips"
    required = False

    def requires(self, _model: Graph) -> str:
        """Always runs."""
        return ""

    def apply(self, model: Graph) -> tuple[Graph, bool]:
        """Return the graph without such pairs."""
        outputs = {id(t) for t in model.outputs}
        widened: dict[int, Tensor] = {}
        instead: dict[int, Tensor] = {}
        kept: list[Op] = []
        changed = False
        for before in model.ops:
            op = replace(before, inputs=tuple(instead.get(id(t), t) if t is not None else None for t in before.inputs))
            source, result = op.inputs[0] if op.inputs else None, op.outputs[0]
            if op.code == "CAST" and source is not None:
                first = widened.get(id(source))
                if first is not None and result.dtype == first.dtype:
                    changed = True
                    if id(result) not in outputs:
                        instead[id(result)] = first
                        continue
                    sizes = constant(f"{result.name}/shape", np.array(result.shape, np.int32))
                    kept.append(Op("RESHAPE", (first, sizes), (result,), {"new_shape": result.shape}, op.source))
                    continue
                if (source.dtype, result.dtype) == ("int32", "int64"):
                    widened[id(result)] = source
            kept.append(op)
        return replace(model, ops=tuple(kept)), changed

    def ensures(self, before: Graph, after: Graph) -> str:
        """Inputs, outputs and order are kept."""
        return broken(before, after)


class ShareEqual:
    """Case 1: an operator equal to an earlier one (same inputs, options, result types and scales) gives way to it.

    Case 2: one that makes a graph output stays, since outputs have names of their own.
    """

    name = "share-equal"
    required = False

    def requires(self, _model: Graph) -> str:
        """Always runs."""
        return ""

    def apply(self, model: Graph) -> tuple[Graph, bool]:
        """Return the graph with equal operators shared."""
        outputs = {id(t) for t in model.outputs}
        known: dict[object, Op] = {}
        instead: dict[int, Tensor] = {}
        constants: dict[object, Tensor] = {}
        kept: list[Op] = []

        def new(tensor: Tensor | None) -> Tensor | None:
            if tensor is None:
                return None
            if tensor.data is None:
                return instead.get(id(tensor), tensor)
            return constants.setdefault((tensor.dtype, tensor.shape, tensor.data.tobytes()), tensor)

        for op in model.ops:
            current = replace(op, inputs=tuple(map(new, op.inputs)))
            key = (
                op.code, tuple(id(t) for t in current.inputs), tuple(sorted(op.options.items())), tuple(map(id, op.bodies)),
                tuple((t.dtype, t.shape, t.quantization) for t in op.outputs),
            )  # fmt: skip
            twin = known.get(key)
            if twin is not None and not any(id(t) in outputs for t in op.outputs):
                instead.update({id(t): other for t, other in zip(op.outputs, twin.outputs, strict=True)})
                continue
            known.setdefault(key, current)
            kept.append(current)
        return replace(model, ops=tuple(kept)), len(kept) != len(model.ops)

    def ensures(self, before: Graph, after: Graph) -> str:
        """Inputs, outputs and order are kept."""
        return broken(before, after)
