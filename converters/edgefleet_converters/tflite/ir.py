"""The compiler's own picture of a TFLite graph: tensors, operators, one subgraph.

Everything is frozen and compared by identity: a pass builds a new graph and shares what it does not change.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Option: TypeAlias = int | float | bool | str | tuple[int, ...]
Shape: TypeAlias = tuple[int, ...]


@dataclass(frozen=True)
class Quantization:
    """real = scale * (stored - zero_point). One pair for the tensor, or one for each index of `dimension`."""

    scale: tuple[float, ...]
    zero_point: tuple[int, ...]
    dimension: int = 0


@dataclass(frozen=True, eq=False)
class Tensor:
    """A value. dtype: name of `operators.DTYPES`. shape: all fixed. data: of a constant, of that dtype and shape.

    signature: of a file that was read, the shape with -1 where a length is open.
    """

    name: str
    dtype: str
    shape: Shape
    data: Array | None = None
    quantization: Quantization | None = None
    signature: Shape | None = None

    @property
    def rank(self) -> int:
        """Return the number of dimensions."""
        return len(self.shape)

    @property
    def constant(self) -> Array:
        """Return the value of a constant. Asserts that it is one."""
        assert self.data is not None, f"{self.name} is no constant"
        return self.data


@dataclass(frozen=True, eq=False)
class Op:
    """One builtin operator. code: name of `operators.BUILTIN_NAMES`. inputs: None stands for an optional one left out."""

    code: str
    inputs: tuple[Tensor | None, ...]
    outputs: tuple[Tensor, ...]
    options: Mapping[str, Option] = field(default_factory=dict)
    source: str = ""
    """The ONNX node it comes from, for messages."""
    version: int = 0
    """At least so high is it written: what a file that was read says of it."""
    bodies: "tuple[Graph, ...]" = ()
    """Of WHILE: the condition and what is done in each round. Both take what the operator takes."""


@dataclass(frozen=True, eq=False)
class Graph:
    """A whole model: operators in an order in which each input is made before it is read."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    ops: tuple[Op, ...]


def all_ops(graph: Graph) -> Iterator[Op]:
    """Yield the operators of a graph and of the graphs in them."""
    for op in graph.ops:
        yield op
        for body in op.bodies:
            yield from all_ops(body)


def in_bodies(graph: Graph, change: Callable[[Graph], Graph]) -> Graph:
    """Return the graph with each graph inside its operators changed."""
    if not any(op.bodies for op in graph.ops):
        return graph
    return replace(graph, ops=tuple(replace(op, bodies=tuple(map(change, op.bodies))) for op in graph.ops))


def constant(name: str, data: Array) -> Tensor:
    """Return a constant tensor of the array's own dtype and shape."""
    return Tensor(name, data.dtype.name, tuple(int(n) for n in data.shape), np.array(data, order="C"))
