"""Matrix products: MatMul, Gemm, Einsum. Source: the ONNX operator pages; Einsum after numpy's rules."""

from collections.abc import Sequence

import numpy as np

from edgefleet_converters.tflite import arithmetic, layout_moves
from edgefleet_converters.tflite.builder import Builder
from edgefleet_converters.tflite.ir import Tensor
from edgefleet_converters.tflite.node import Lowering, Node

MAX_DETERMINANT = 5


def matmul(b: Builder, n: Node) -> Sequence[Tensor]:
    """MatMul."""
    return [arithmetic.matmul(b, n.input(0), n.input(1))]


def gemm(b: Builder, n: Node) -> Sequence[Tensor]:
    """Gemm: alpha · A' B' + beta · C. Constant float weights with a bias vector become one FULLY_CONNECTED."""
    x, y, bias = n.input(0), n.input(1), n.optional(2)
    alpha, beta = float(n.get("alpha", 1.0)), float(n.get("beta", 1.0))
    if n.get("transA", 0):
        x = layout_moves.transpose(b, x, [1, 0])
    rows = y if n.get("transB", 0) else layout_moves.transpose(b, y, [1, 0])
    plain = bias is None or (
        bias.data is not None and layout_moves.size(bias.shape) in (1, rows.shape[0]) and _is_row(bias)
    )
    if x.dtype == "float32" and rows.data is not None and plain and layout_moves.size(x.shape):
        weight = b.const(rows.constant * np.float32(alpha)) if alpha != 1 else rows
        start = np.zeros(rows.shape[0], np.float32)
        if bias is not None:
            start = start + bias.constant.reshape(-1) * np.float32(beta)
        return [
            b.emit(
                "FULLY_CONNECTED", [x, weight, b.const(start)], "float32", [x.shape[0], rows.shape[0]],
                fused_activation_function=0, keep_num_dims=False,
            )
        ]  # fmt: skip
    made = arithmetic.matmul(b, x, layout_moves.transpose(b, rows, [1, 0]))
    made = made if alpha == 1 else arithmetic.mul(b, made, _factor(b, alpha, x))
    if bias is not None and beta != 0:
        made = arithmetic.add(b, made, bias if beta == 1 else arithmetic.mul(b, bias, _factor(b, beta, x)))
    return [made]


def _is_row(bias: Tensor) -> bool:
    return bias.rank <= 1 or bias.shape[0] == 1


def _factor(b: Builder, value: float, like: Tensor) -> float:
    if not like.dtype.startswith("float") and not value.is_integer():
        b.not_compiled(f"Gemm of {like.dtype} with the factor {value}")
    return value


def einsum(b: Builder, n: Node) -> Sequence[Tensor]:
    """Einsum: diagonals first, then pairs from left to right as batched products, then sums and the final order."""
    equation = n.text("equation", "").replace(" ", "")
    left, arrow, right = equation.partition("->")
    terms = left.split(",")
    tensors = [n.input(i) for i in range(len(terms))]
    terms, ellipsis = _spelled(terms, tensors)
    letters = "".join(terms)
    if arrow:
        wanted = right.replace("...", ellipsis)
    else:
        wanted = ellipsis + "".join(sorted(c for c in set(letters) - set(ellipsis) if letters.count(c) == 1))
    parts = [_diagonals(b, t, term) for t, term in zip(tensors, terms, strict=True)]
    while len(parts) > 1:
        rest = set(wanted).union(*(term for _, term in parts[2:]))
        parts[:2] = [_contracted(b, parts[0], parts[1], rest)]
    x, term = parts[0]
    gone = [i for i, c in enumerate(term) if c not in wanted]
    x = arithmetic.reduce(b, "SUM", x, gone, keep=False) if gone else x
    term = "".join(c for c in term if c in wanted)
    return [layout_moves.transpose(b, x, [term.index(c) for c in wanted])]


def _spelled(terms: list[str], tensors: Sequence[Tensor]) -> tuple[list[str], str]:
    """Return the terms with letters for the dots. Capital letters beyond those in use stand for the dotted axes."""
    most = max(
        (t.rank - len(term.replace("...", "")) for term, t in zip(terms, tensors, strict=True) if "..." in term),
        default=0,
    )
    free = [chr(code) for code in range(0x391, 0x391 + most)]
    dots = "".join(free)
    spelled = []
    for term, tensor in zip(terms, tensors, strict=True):
        count = tensor.rank - len(term.replace("...", ""))
        spelled.append(term.replace("...", dots[len(dots) - count :] if count else ""))
    return spelled, dots


def _diagonals(b: Builder, x: Tensor, term: str) -> tuple[Tensor, str]:
    """Return the tensor with each letter once: repeated letters are read along their diagonal."""
    for letter in dict.fromkeys(term):
        while term.count(letter) > 1:
            first = term.index(letter)
            second = term.index(letter, first + 1)
            order = [i for i in range(x.rank) if i not in (first, second)] + [first, second]
            turned = layout_moves.transpose(b, x, order)
            length = turned.shape[-1]
            flat = layout_moves.reshape(b, turned, [*turned.shape[:-2], length * length])
            x = layout_moves.take(b, flat, flat.rank - 1, 0, length, length + 1)
            term = "".join(term[i] for i in order[:-2]) + letter
    return x, term


def _contracted(b: Builder, one: tuple[Tensor, str], other: tuple[Tensor, str], rest: set[str]) -> tuple[Tensor, str]:
    """Return the product of two terms, summed over letters that nobody reads any more."""
    x, left = one
    y, right = other
    batch = [c for c in left if c in right and c in rest]
    summed = [c for c in left if c in right and c not in rest]
    only_left, only_right = [c for c in left if c not in right], [c for c in right if c not in left]
    sizes = dict(zip(left, x.shape, strict=True))
    for letter, length in zip(right, y.shape, strict=True):
        sizes[letter] = max(sizes.get(letter, 1), length)

    def arranged(tensor: Tensor, term: str, groups: Sequence[Sequence[str]]) -> Tensor:
        order = [c for group in groups for c in group]
        turned = layout_moves.transpose(b, tensor, [term.index(c) for c in order])
        turned = layout_moves.broadcast_to(b, turned, [sizes[c] for c in order])
        return layout_moves.reshape(b, turned, [layout_moves.size([sizes[c] for c in group]) for group in groups])

    made = arithmetic.matmul(
        b, arranged(x, left, (batch, only_left, summed)), arranged(y, right, (batch, summed, only_right))
    )
    letters = [*batch, *only_left, *only_right]
    return layout_moves.reshape(b, made, [sizes[c] for c in letters]), "".join(letters)


def determinant(b: Builder, n: Node) -> Sequence[Tensor]:
    """Det of small matrices, by expansion along the first row."""
    x = n.input(0)
    size = x.shape[-1]
    if size > MAX_DETERMINANT:
        b.not_compiled(f"the determinant of {size} by {size} matrices")
    rows = [layout_moves.index(b, x, x.rank - 2, i) for i in range(size)]
    entries = [[layout_moves.index(b, row, row.rank - 1, j) for j in range(size)] for row in rows]
    return [_expanded(b, entries)]


def _expanded(b: Builder, entries: Sequence[Sequence[Tensor]]) -> Tensor:
    if len(entries) == 1:
        return entries[0][0]
    total: Tensor | None = None
    for j, first in enumerate(entries[0]):
        part = arithmetic.mul(b, first, _expanded(b, [[*row[:j], *row[j + 1 :]] for row in entries[1:]]))
        total = part if total is None else (arithmetic.sub if j % 2 else arithmetic.add)(b, total, part)
    assert total is not None
    return total


LOWERINGS: dict[str, Lowering] = {"MatMul": matmul, "Gemm": gemm, "Einsum": einsum, "Det": determinant}
