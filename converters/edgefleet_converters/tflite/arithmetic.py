"""Operators that compute. A type that a kernel lacks is widened to one that holds every value, and narrowed back after.

Sums and products of narrow integers wrap in int32 or int64 and are cut back by CAST, which gives the same as wrapping in the
narrow type. uint64 is added and multiplied as int64: the low 64 bits are the same. float64 has no wider type and is refused.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np

from edgefleet_converters.tflite.builder import Builder, broadcast_shape
from edgefleet_converters.tflite.ir import Array, Tensor
from edgefleet_converters.tflite.layout_moves import bitcast, broadcast_to, cast, flatten, reshape, size, transpose

WIDER: Final[dict[str, tuple[str, ...]]] = {
    "bool": ("int32",),
    "int8": ("int32", "int64"),
    "uint8": ("int32", "int64"),
    "int16": ("int32", "int64"),
    "uint16": ("int32", "int64"),
    "int32": ("int64",),
    "uint32": ("int64",),
    "float16": ("float32",),
}
"""Type -> types that hold all its values, narrowest first."""

MAX_RANK: Final = 4
_INT64_MIN: Final = -(2**63)
_FLOAT_BELOW_2_63: Final = float(np.nextafter(np.float32(2**63), np.float32(0)))


def _trunc_div(x: Array, y: Array) -> Array:
    if x.dtype.kind == "f":
        return np.asarray(x / y, x.dtype)
    wide = np.asarray(np.sign(x) * np.sign(y) * (np.abs(x) // np.abs(y)))
    return wide.astype(x.dtype)


BINARY: Final[dict[str, Callable[[Array, Array], Any]]] = {
    "ADD": np.add, "SUB": np.subtract, "MUL": np.multiply, "DIV": _trunc_div, "MAXIMUM": np.maximum, "MINIMUM": np.minimum,
    "POW": np.power, "FLOOR_MOD": np.mod, "FLOOR_DIV": np.floor_divide, "ATAN2": np.arctan2,
    "LESS": np.less, "LESS_EQUAL": np.less_equal, "GREATER": np.greater, "GREATER_EQUAL": np.greater_equal,
    "EQUAL": np.equal, "NOT_EQUAL": np.not_equal, "LOGICAL_AND": np.logical_and, "LOGICAL_OR": np.logical_or,
    "BITWISE_XOR": np.bitwise_xor, "RIGHT_SHIFT": np.right_shift, "SQUARED_DIFFERENCE": lambda x, y: (x - y) ** 2,
}  # fmt: skip
COMPARISONS: Final = {"LESS", "LESS_EQUAL", "GREATER", "GREATER_EQUAL", "EQUAL", "NOT_EQUAL"}
_WRAPPING: Final = {"ADD", "SUB", "MUL"}
_ORDERED: Final = {"MAXIMUM", "MINIMUM"}

UNARY: Final[dict[str, Callable[[Array], Any]]] = {
    "ABS": np.abs, "NEG": np.negative, "EXP": np.exp, "LOG": np.log, "SQRT": np.sqrt, "SIN": np.sin, "COS": np.cos,
    "FLOOR": np.floor, "CEIL": np.ceil, "ROUND": np.round, "SIGN": np.sign, "SQUARE": np.square, "TANH": np.tanh,
    "RELU": lambda a: np.maximum(a, 0), "LOGICAL_NOT": np.logical_not,
}  # fmt: skip

_REDUCE: Final[dict[str, Callable[..., Any]]] = {
    "SUM": np.sum, "REDUCE_PROD": np.prod, "REDUCE_MAX": np.max, "REDUCE_MIN": np.min, "MEAN": np.mean, "REDUCE_ANY": np.any,
    "REDUCE_ALL": np.all,
}  # fmt: skip
_EMPTY: Final[dict[str, float]] = {"SUM": 0, "REDUCE_PROD": 1, "REDUCE_ANY": 0, "REDUCE_ALL": 1}


def computed_in(b: Builder, code: str, dtype: str) -> str:
    """Return the type in which `code` is computed for `dtype`. Raises UnsupportedOperatorError."""
    for kind in (dtype, *WIDER.get(dtype, ())):
        if b.runtime.takes(code, kind):
            return kind
    return b.lacks(f"{code} on {dtype}")


def binary(b: Builder, code: str, x: Tensor, y: Tensor) -> Tensor:
    """Return an elementwise operator of two tensors of one type, shapes broadcast. Comparisons give bool."""
    assert x.dtype == y.dtype, f"{code} of {x.dtype} and {y.dtype}"
    done = b.folded(
        lambda p, q: np.asarray(BINARY[code](p, q)).astype("bool" if code in COMPARISONS else p.dtype), x, y
    )
    if done:
        return done
    if x.dtype == "uint64":
        return _unsigned(b, code, x, y)
    shape = broadcast_shape(b, x.shape, y.shape)
    kind = computed_in(b, code, x.dtype)
    dtype = "bool" if code in COMPARISONS else kind
    left, right = cast(b, x, kind), cast(b, y, kind)
    if len(shape) > MAX_RANK:
        left, right = _merged(b, left, right)
    flat = broadcast_shape(b, left.shape, right.shape)
    made = reshape(b, b.emit(code, [left, right], dtype, flat), shape)
    return made if code in COMPARISONS else cast(b, made, x.dtype)


def divide_int64(b: Builder, x: Tensor, y: Tensor) -> Tensor:
    """Return x ÷ y of int64 cut towards zero, for which no kernel exists.

    A quotient in float32 has 24 good bits, so each round leaves a remainder 2^22 times smaller; after four rounds the remainder is
    below the divisor or one step off, which the last lines mend. The clamp keeps the cast inside int64.
    """
    total: Tensor | None = None
    rest = x
    for _ in range(4):
        part = binary(b, "DIV", cast(b, rest, "float32"), cast(b, y, "float32"))
        step = cast(b, clamp(b, part, -_FLOAT_BELOW_2_63, _FLOAT_BELOW_2_63), "int64")
        total = step if total is None else add(b, total, step)
        rest = sub(b, rest, mul(b, step, y))
    assert total is not None
    # The remainder must have the sign of x and be smaller than y.
    zero, one = b.const(0, "int64"), b.const(1, "int64")
    size_y = binary(b, "MAXIMUM", y, unary(b, "NEG", y))
    same_sign = binary(b, "EQUAL", binary(b, "LESS", x, zero), binary(b, "LESS", y, zero))
    towards = _choice(b, same_sign, one)
    size_rest = binary(b, "MAXIMUM", rest, unary(b, "NEG", rest))
    more = cast(b, binary(b, "GREATER_EQUAL", size_rest, size_y), "int64")
    opposite = binary(b, "LOGICAL_AND", binary(b, "NOT_EQUAL", rest, zero),
                      binary(b, "NOT_EQUAL", binary(b, "LESS", rest, zero), binary(b, "LESS", x, zero)))  # fmt: skip
    return sub(b, add(b, total, mul(b, towards, more)), mul(b, towards, cast(b, opposite, "int64")))


def _choice(b: Builder, condition: Tensor, one: Tensor) -> Tensor:
    """Return 1 where the condition holds, else -1."""
    return sub(b, mul(b, cast(b, condition, "int64"), 2), one)


def _unsigned(b: Builder, code: str, x: Tensor, y: Tensor) -> Tensor:
    left, right = bitcast(b, x, "int64"), bitcast(b, y, "int64")
    if code in _WRAPPING:
        return bitcast(b, binary(b, code, left, right), "uint64")
    if code in ("EQUAL", "NOT_EQUAL"):
        return binary(b, code, left, right)
    if code not in COMPARISONS | _ORDERED:
        b.lacks(f"{code} on uint64")
    # Adding 2^63 turns the order of unsigned numbers into that of signed ones.
    flip = b.const(_INT64_MIN, "int64")
    made = binary(b, code, binary(b, "ADD", left, flip), binary(b, "ADD", right, flip))
    return made if code in COMPARISONS else bitcast(b, binary(b, "ADD", made, flip), "uint64")


def _merged(b: Builder, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return both with neighbouring axes joined where both are whole or both are repeated; at most `MAX_RANK` axes."""
    rank = max(x.rank, y.rank)
    left, right = [1] * (rank - x.rank) + list(x.shape), [1] * (rank - y.rank) + list(y.shape)
    joined: list[tuple[int, int]] = []
    for pair in zip(left, right, strict=True):
        if pair == (1, 1):
            continue
        if joined and (pair[0] == 1, pair[1] == 1) == (joined[-1][0] == 1, joined[-1][1] == 1):
            joined[-1] = (joined[-1][0] * pair[0], joined[-1][1] * pair[1])
        else:
            joined.append(pair)
    if len(joined) > MAX_RANK:
        shape = broadcast_shape(b, x.shape, y.shape)
        return flatten(b, broadcast_to(b, x, shape)), flatten(b, broadcast_to(b, y, shape))
    return reshape(b, x, [p for p, _ in joined]), reshape(b, y, [q for _, q in joined])


def unary(b: Builder, code: str, x: Tensor, **options: float | bool) -> Tensor:
    """Return an elementwise operator of one tensor, of its own type."""
    if code in UNARY:
        done = b.folded(lambda a: np.asarray(UNARY[code](a)).astype(a.dtype), x)
        if done:
            return done
    kind = computed_in(b, code, x.dtype)
    return cast(b, b.emit(code, [cast(b, x, kind)], kind, x.shape, **options), x.dtype)


def reduce(b: Builder, code: str, x: Tensor, axes: Sequence[int], *, keep: bool) -> Tensor:
    """Reduce over `axes`. Neighbouring axes are joined, so that any rank is served."""
    chosen = {a % x.rank for a in axes} if x.rank else set()
    kept = [1 if i in chosen else n for i, n in enumerate(x.shape)]
    shape = kept if keep else [n for i, n in enumerate(x.shape) if i not in chosen]
    done = b.folded(lambda a: np.asarray(_REDUCE[code](a, axis=tuple(chosen), keepdims=keep)).astype(a.dtype), x)
    if done and (size(x.shape) or code in _EMPTY):
        return done
    if not size(x.shape):
        return b.const(np.full(shape, identity(b, code, x.dtype), x.dtype))
    if not chosen or all(x.shape[a] == 1 for a in chosen):
        return reshape(b, x, shape)
    flat = _joined(b, x, chosen) if x.rank > MAX_RANK else (list(x.shape), [i in chosen for i in range(x.rank)])
    kind = computed_in(b, code, x.dtype)
    axis = [i for i, one in enumerate(flat[1]) if one]
    wide = cast(b, reshape(b, x, flat[0]), kind)
    made = b.emit(
        code, [wide, b.ints(axis)], kind, [n for n, one in zip(*flat, strict=True) if not one], keep_dims=False
    )
    return cast(b, reshape(b, made, shape), x.dtype)


def _joined(b: Builder, x: Tensor, chosen: set[int]) -> tuple[list[int], list[bool]]:
    sizes: list[int] = []
    reduced: list[bool] = []
    for axis, n in enumerate(x.shape):
        if n == 1:
            continue
        if reduced and reduced[-1] == (axis in chosen):
            sizes[-1] *= n
        else:
            sizes.append(n)
            reduced.append(axis in chosen)
    if len(sizes) > MAX_RANK + 1:
        b.not_compiled(f"a reduction over {len(sizes)} groups of axes")
    return sizes, reduced


def identity(b: Builder, code: str, dtype: str) -> float:
    """Return what a reduction of no elements gives."""
    if code in _EMPTY:
        return _EMPTY[code]
    if code in ("REDUCE_MAX", "REDUCE_MIN"):
        if dtype.startswith("float"):
            return -np.inf if code == "REDUCE_MAX" else np.inf
        if dtype == "bool":
            return 0 if code == "REDUCE_MAX" else 1
        limits = np.iinfo(dtype)
        return limits.min if code == "REDUCE_MAX" else limits.max
    return b.not_compiled(f"{code} of no elements")


def matmul(b: Builder, x: Tensor, y: Tensor) -> Tensor:
    """Return numpy's matmul of two tensors of one type. Integers are multiplied and summed one by one."""
    if x.rank == 1:
        made = matmul(b, reshape(b, x, [1, *x.shape]), y)
        return reshape(b, made, [*made.shape[:-2], made.shape[-1]] if y.rank > 1 else made.shape[1:])
    if y.rank == 1:
        made = matmul(b, x, reshape(b, y, [*y.shape, 1]))
        return reshape(b, made, made.shape[:-1])
    batch = broadcast_shape(b, x.shape[:-2], y.shape[:-2])
    shape = [*batch, x.shape[-2], y.shape[-1]]
    done = b.folded(lambda p, q: np.matmul(p, q).astype(p.dtype), x, y)
    if done:
        return done
    if not size(shape) or not x.shape[-1]:
        return b.const(np.zeros(shape, x.dtype))
    if x.dtype not in ("float32", "float16"):
        return _summed_product(b, x, y)
    kind = computed_in(b, "BATCH_MATMUL", x.dtype)
    left, right = cast(b, x, kind), cast(b, y, kind)
    if size(y.shape[:-2]) == 1 and right.data is not None:
        return cast(b, _dense(b, left, right, shape), x.dtype)
    left = reshape(b, broadcast_to(b, left, [*batch, *x.shape[-2:]]), [size(batch), *x.shape[-2:]])
    right = reshape(b, broadcast_to(b, right, [*batch, *y.shape[-2:]]), [size(batch), *y.shape[-2:]])
    made = b.emit("BATCH_MATMUL", [left, right], kind, [size(batch), *shape[-2:]], adj_x=False, adj_y=False)
    return cast(b, reshape(b, made, shape), x.dtype)


def _dense(b: Builder, x: Tensor, weight: Tensor, shape: Sequence[int]) -> Tensor:
    """Return x @ weight for one constant weight matrix: FULLY_CONNECTED keeps it packed."""
    rows = reshape(b, x, [size(x.shape[:-1]), x.shape[-1]])
    turned = transpose(b, reshape(b, weight, weight.shape[-2:]), [1, 0])
    made = b.emit(
        "FULLY_CONNECTED", [rows, turned, b.const(np.zeros(turned.shape[0], np.float32))], "float32",
        [rows.shape[0], turned.shape[0]], fused_activation_function=0, keep_num_dims=False,
    )  # fmt: skip
    return reshape(b, made, shape)


def _summed_product(b: Builder, x: Tensor, y: Tensor) -> Tensor:
    left = reshape(b, x, [*x.shape, 1])
    right = reshape(b, y, [*y.shape[:-2], 1, *y.shape[-2:]])
    return reduce(b, "SUM", binary(b, "MUL", left, right), [-2], keep=False)


def scalar(b: Builder, value: float, like: Tensor) -> Tensor:
    """Return a scalar constant of another tensor's type."""
    return b.const(np.array(value).astype(like.dtype))


def add(b: Builder, x: Tensor, y: Tensor | float) -> Tensor:
    """Return x + y."""
    return binary(b, "ADD", x, y if isinstance(y, Tensor) else scalar(b, y, x))


def sub(b: Builder, x: Tensor | float, y: Tensor | float) -> Tensor:
    """Return x - y; one of them is a tensor."""
    left, right = _pair(b, x, y)
    return binary(b, "SUB", left, right)


def mul(b: Builder, x: Tensor, y: Tensor | float) -> Tensor:
    """Return x · y."""
    return binary(b, "MUL", x, y if isinstance(y, Tensor) else scalar(b, y, x))


def div(b: Builder, x: Tensor | float, y: Tensor | float) -> Tensor:
    """Return x ÷ y; one of them is a tensor."""
    left, right = _pair(b, x, y)
    return binary(b, "DIV", left, right)


def _pair(b: Builder, x: Tensor | float, y: Tensor | float) -> tuple[Tensor, Tensor]:
    if isinstance(x, Tensor):
        return x, y if isinstance(y, Tensor) else scalar(b, y, x)
    assert isinstance(y, Tensor)
    return scalar(b, x, y), y


def clamp(b: Builder, x: Tensor, low: Tensor | float | None, high: Tensor | float | None) -> Tensor:
    """Return min(max(x, low), high)."""
    if low is not None:
        x = binary(b, "MAXIMUM", x, low if isinstance(low, Tensor) else scalar(b, low, x))
    if high is not None:
        x = binary(b, "MINIMUM", x, high if isinstance(high, Tensor) else scalar(b, high, x))
    return x


def logical_not(b: Builder, x: Tensor) -> Tensor:
    """Return not x."""
    return unary(b, "LOGICAL_NOT", x)
