"""Sequences of tensors whose length is known while compiling: they are lists of values here and never reach the file.

Source: the ONNX operator pages of Sequence*, SplitToSequence and ConcatFromSequence.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgefleet_converters.tflite import layout_moves
from edgefleet_converters.tflite.builder import Builder
from edgefleet_converters.tflite.ir import Tensor
from edgefleet_converters.tflite.node import Lowering, Node


@dataclass(frozen=True, eq=False)
class TensorList(Tensor):
    """A sequence. Nothing but the lowerings of this module reads it."""

    items: tuple[Tensor, ...] = ()


def _list(items: Sequence[Tensor]) -> list[Tensor]:
    dtype = items[0].dtype if items else "float32"
    return [TensorList("list", dtype, (), items=tuple(items))]


def _items(b: Builder, n: Node) -> list[Tensor]:
    given = n.input(0)
    if not isinstance(given, TensorList):
        b.not_compiled(f"{n.op_type} of a sequence that is an input of the model")
    return list(given.items)


def _position(b: Builder, n: Node, position: int, count: int, *, end: bool = False) -> int:
    """Return a place in a sequence of `count` values, counted from the front. end: whether the place behind the last is one."""
    found = n.array(position)
    if found is None:
        b.not_compiled(f"{n.op_type} at a place known only at run time")
    at = int(found.reshape(()))
    at = at + count if at < 0 else at
    if not 0 <= at < count + end:
        b.not_compiled(f"{n.op_type} outside of the sequence")
    return at


def construct(_b: Builder, n: Node) -> Sequence[Tensor]:
    """SequenceConstruct."""
    return _list([n.input(i) for i in range(len(n.inputs))])


def empty(_b: Builder, _n: Node) -> Sequence[Tensor]:
    """SequenceEmpty."""
    return _list([])


def insert(b: Builder, n: Node) -> Sequence[Tensor]:
    """SequenceInsert, at the end where no place is given."""
    items = _items(b, n)
    items.insert(_position(b, n, 2, len(items), end=True) if n.given(2) else len(items), n.input(1))
    return _list(items)


def erase(b: Builder, n: Node) -> Sequence[Tensor]:
    """SequenceErase, of the last where no place is given."""
    items = _items(b, n)
    items.pop(_position(b, n, 1, len(items)) if n.given(1) else -1)
    return _list(items)


def at(b: Builder, n: Node) -> Sequence[Tensor]:
    """SequenceAt."""
    items = _items(b, n)
    return [items[_position(b, n, 1, len(items))]]


def length(b: Builder, n: Node) -> Sequence[Tensor]:
    """SequenceLength."""
    return [b.const(np.array(len(_items(b, n)), np.int64))]


def joined(b: Builder, n: Node) -> Sequence[Tensor]:
    """ConcatFromSequence along an axis, or a new one."""
    items, axis = _items(b, n), int(n.get("axis"))
    if n.get("new_axis", 0):
        return [layout_moves.stack(b, items, axis % (items[0].rank + 1))]
    return [layout_moves.concat(b, items, axis % items[0].rank)]


def split(b: Builder, n: Node) -> Sequence[Tensor]:
    """SplitToSequence: by one size, by several, or one by one."""
    x = n.input(0)
    axis = int(n.get("axis", 0)) % x.rank
    whole = x.shape[axis]
    if not n.given(1):
        parts = [layout_moves.take(b, x, axis, i, 1) for i in range(whole)]
        keep = bool(n.get("keepdims", 1))
        kept = [size for i, size in enumerate(x.shape) if i != axis]
        return _list(parts if keep else [layout_moves.reshape(b, part, kept) for part in parts])
    sizes = n.array(1)
    if sizes is None:
        b.not_compiled("SplitToSequence with sizes known only at run time")
    if sizes.ndim == 0:
        each = int(sizes)
        counts = [min(each, whole - first) for first in range(0, whole, each)]
    else:
        counts = [int(size) for size in sizes]
    starts = np.cumsum([0, *counts[:-1]])
    return _list(
        [layout_moves.take(b, x, axis, int(first), count) for first, count in zip(starts, counts, strict=True)]
    )


LOWERINGS: dict[str, Lowering] = {
    "SequenceConstruct": construct, "SequenceEmpty": empty, "SequenceInsert": insert, "SequenceErase": erase,
    "SequenceAt": at, "SequenceLength": length, "ConcatFromSequence": joined, "SplitToSequence": split,
}  # fmt: skip
