"""One ONNX node as a lowering sees it: its inputs are tensors already, its attributes are plain values."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import onnx

from edgefleet_converters.tflite.builder import Builder
from edgefleet_converters.tflite.ir import Array, Shape, Tensor

Trace: TypeAlias = Callable[[onnx.GraphProto, Sequence[Tensor]], list[Tensor]]


@dataclass(frozen=True)
class Node:
    """opset: of the node's own domain. wanted: for each output, whether anything reads it.

    declared: for each output, the shape that the model itself promises for it, where that is fixed. trace: compiles a subgraph.
    """

    op_type: str
    inputs: tuple[Tensor | None, ...]
    attributes: Mapping[str, Any]
    opset: int
    wanted: tuple[bool, ...]
    declared: tuple[Shape | None, ...]
    trace: Trace

    def input(self, position: int) -> Tensor:
        """Return an input that must be there."""
        tensor = self.optional(position)
        assert tensor is not None, f"{self.op_type} without input {position}"
        return tensor

    def optional(self, position: int) -> Tensor | None:
        """Return an input, None where it is left out."""
        return self.inputs[position] if position < len(self.inputs) else None

    def array(self, position: int) -> Array | None:
        """Return the value of a constant input, None where it is left out or not constant."""
        tensor = self.optional(position)
        return None if tensor is None else tensor.data

    def given(self, position: int) -> bool:
        """Say whether an input is there."""
        return self.optional(position) is not None

    def wants(self, position: int) -> bool:
        """Say whether an output is read."""
        return position < len(self.wanted) and self.wanted[position]

    def get(self, name: str, default: Any = None) -> Any:
        """Return an attribute."""
        return self.attributes.get(name, default)

    def text(self, name: str, default: str) -> str:
        """Return a string attribute."""
        value = self.attributes.get(name, default)
        return value.decode() if isinstance(value, bytes) else str(value)

    def ints(self, b: Builder, position: int, name: str) -> list[int] | None:
        """Return numbers that older opsets have as an attribute and newer ones as an input; None where not given.

        Raises OperatorNotCompiledError when they are known only at run time.
        """
        if name in self.attributes:
            return [int(n) for n in self.attributes[name]]
        if not self.given(position):
            return None
        array = self.array(position)
        if array is None:
            b.not_compiled(f"{self.op_type} with {name} known only at run time")
        return [int(n) for n in array.reshape(-1)]

    def shape_of(self, position: int = 0) -> Shape | None:
        """Return the shape that the model promises for an output."""
        return self.declared[position] if position < len(self.declared) else None


Lowering: TypeAlias = Callable[[Builder, Node], Sequence[Tensor]]
