"""Products whose right side is stored in blocks with a scale each: com.microsoft MatMulNBits (onnxruntime, ContribOperators.md).

The operator rounds the left side to 8 bits in the same blocks when it runs (`accuracy_level` 4), so that one large value costs precision
in its own block alone. On a real encoder of 90 MB (MiniLM, 40 sentences, cosine with float32 and time of it): int8 of one scale a tensor
for each product's left side 0.992 and 0.44 to 0.49; 8 bits in blocks 0.999 and 0.53 to 0.79; blocks for the products that narrow, which
follow an activation with rare large values, 0.996 and 0.45 to 0.58.

- 8 bits: blocks of 64, symmetric, stored as round(v / scale) + 128.
- 4 bits: blocks of 32 with a zero point each, the first of two values in the low half of a byte. Of several ranges the one with the least
  squared error is taken: the outermost values of a block may be worth less than the steps between the others.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgefleet_converters.onnx.walk import all_nodes, fresh_name, value_names
from edgefleet_converters.onnx.word_tables import lookups, read_from_blocks

Array = npt.NDArray[Any]

MIN_ELEMENTS: Final = 256
"""Stored tensors with fewer values stay as they are."""
BLOCKS: Final = {4: 32, 8: 64}
"""Bits -> values that share a scale."""
_DOMAIN: Final = "com.microsoft"
_ROUNDED_LEFT: Final = 4
_RANGES: Final = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7)


@dataclass(frozen=True)
class Packed:
    """A matrix of [K, N] as MatMulNBits reads it: blob uint8 [N, blocks, bytes], scales float32 [N * blocks], zeros uint8."""

    blob: Array
    scales: Array
    zeros: Array | None


def stored_in_blocks(
    model: onnx.ModelProto, bits: Literal[4, 8], *, untouched: Collection[str] = (), narrowing: bool = False
) -> onnx.ModelProto:
    """Return the model with each MatMul, also in subgraphs, in blocks that has a matrix of the main graph on its right side.

    A matrix that others than products read as well stays, but for words that are read as its columns (`onnx.word_tables`).

    untouched: names of stored tensors. narrowing: only matrices with more rows than columns.
    """
    after = onnx.ModelProto()
    after.CopyFrom(model)
    stored = {t.name: t for t in after.graph.initializer if t.data_type == TensorProto.FLOAT}
    uses: dict[str, int] = {}
    for node in all_nodes(after):
        for name in node.input:
            uses[name] = uses.get(name, 0) + 1
    taken, tables = value_names(after), lookups(after)
    products: dict[str, list[onnx.NodeProto]] = {}
    for node in all_nodes(after):
        if node.op_type == "MatMul" and node.input[1] in stored:
            products.setdefault(node.input[1], []).append(node)
    for name, nodes in products.items():
        tensor, words = stored[name], tables.get(name, [])
        if name in untouched or len(tensor.dims) != 2 or uses[name] != len(nodes) + len(words):
            continue
        if words and tensor.dims[0] % BLOCKS[bits]:
            continue
        if int(np.prod(tensor.dims)) < MIN_ELEMENTS or (narrowing and tensor.dims[0] <= tensor.dims[1]):
            continue
        parts, tensors = _stored_parts(tensor, bits, taken)
        if words:
            read_from_blocks(after, words, parts, tensor.dims[1], bits, BLOCKS[bits], taken)
        for node in nodes:
            node.CopyFrom(_product(node, tensor, bits, parts))
        after.graph.initializer.remove(tensor)
        after.graph.initializer.extend(tensors)
    is_used = any(node.domain == _DOMAIN for node in all_nodes(after))
    if is_used and all(entry.domain != _DOMAIN for entry in after.opset_import):
        after.opset_import.append(helper.make_opsetid(_DOMAIN, 1))
    return after


def _stored_parts(
    tensor: onnx.TensorProto, bits: Literal[4, 8], taken: set[str]
) -> tuple[dict[str, str], list[onnx.TensorProto]]:
    """Return the names of a matrix's parts, q, s and maybe z, and their tensors."""
    small = packed(numpy_helper.to_array(tensor), bits)
    parts = {"q": small.blob, "s": small.scales} | ({} if small.zeros is None else {"z": small.zeros})
    names = {key: fresh_name(f"{tensor.name}_{key}{bits}", taken) for key in parts}
    return names, [numpy_helper.from_array(parts[key], name) for key, name in names.items()]


def _product(
    node: onnx.NodeProto, tensor: onnx.TensorProto, bits: Literal[4, 8], names: dict[str, str]
) -> onnx.NodeProto:
    return helper.make_node(
        "MatMulNBits", [node.input[0], *names.values()], list(node.output), name=node.name, domain=_DOMAIN, K=tensor.dims[0],
        N=tensor.dims[1], bits=bits, block_size=BLOCKS[bits], accuracy_level=_ROUNDED_LEFT,
    )  # fmt: skip


def packed(matrix: Array, bits: Literal[4, 8]) -> Packed:
    """Return float32 [K, N] in blocks along K; the last block of a column is filled up with zeros."""
    inner, columns = matrix.shape
    block = BLOCKS[bits]
    count = -(-inner // block)
    padded = np.zeros((columns, count * block), np.float32)
    padded[:, :inner] = matrix.T
    groups = padded.reshape(columns, count, block)
    if bits == 8:
        largest = np.abs(groups).max(axis=2, keepdims=True)
        scale = np.where(largest > 0, largest / 127, 1).astype(np.float32)
        return Packed((np.rint(groups / scale) + 128).astype(np.uint8), scale.reshape(-1), None)
    steps, scale, zero = _nearest(groups)
    blob = steps[..., 0::2] | (steps[..., 1::2] << 4)
    zeros = zero.reshape(columns, count)
    zeros = np.pad(zeros, ((0, 0), (0, count % 2)))  # a column begins with a whole byte
    return Packed(np.ascontiguousarray(blob), scale.reshape(-1), (zeros[:, 0::2] | (zeros[:, 1::2] << 4)).reshape(-1))


def _nearest(groups: Array) -> tuple[Array, Array, Array]:
    """Return (steps 0 … 15, float32 scales, zero points 0 … 15) of the range with the least squared error in each block."""
    low = np.minimum(groups.min(axis=2, keepdims=True), 0)
    high = np.maximum(groups.max(axis=2, keepdims=True), 0)
    best: tuple[Array, ...] | None = None
    for part in _RANGES:
        scale = np.where(high > low, (high - low) * np.float32(part / 15), 1).astype(np.float32)
        zero = np.clip(np.rint(-low * np.float32(part) / scale), 0, 15)
        steps = np.clip(np.rint(groups / scale) + zero, 0, 15)
        error = np.square((steps - zero) * scale - groups).sum(axis=2, keepdims=True)
        found = (error, steps.astype(np.uint8), scale, zero.astype(np.uint8))
        if best is None:
            best = found
            continue
        better = error < best[0]
        best = tuple(np.where(better, mine, theirs) for mine, theirs in zip(found, best, strict=True))
    assert best is not None
    return best[1], best[2], best[3]
