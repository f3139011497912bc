"""Arithmetic, comparison, logic and bits, one element at a time. Source: the ONNX operator pages, opsets 1 to 25."""

from collections.abc import Sequence

import numpy as np

from edgefleet_converters.tflite import arithmetic, layout_moves
from edgefleet_converters.tflite.builder import Builder
from edgefleet_converters.tflite.ir import Tensor
from edgefleet_converters.tflite.node import Lowering, Node

_POWERS_MAX = 16


def binary_of(code: str) -> Lowering:
    """Return the lowering of an operator that is one TFLite operator of two inputs."""

    def lower(b: Builder, n: Node) -> Sequence[Tensor]:
        x, y = n.input(0), _old_broadcast(b, n)
        return [arithmetic.binary(b, code, x, y)]

    return lower


def _old_broadcast(b: Builder, n: Node) -> Tensor:
    """Return the second input; before opset 7 `axis` gave its place in the first one's shape."""
    x, y = n.input(0), n.input(1)
    if n.get("broadcast") and "axis" in n.attributes:
        axis = int(n.get("axis")) % max(1, x.rank)
        return layout_moves.reshape(b, y, [*y.shape, *[1] * (x.rank - axis - y.rank)])
    return y


def divide(b: Builder, n: Node) -> Sequence[Tensor]:
    """Div: integers are cut towards zero."""
    x, y = n.input(0), _old_broadcast(b, n)
    if x.data is not None and y.data is not None:
        return [arithmetic.div(b, x, y)]
    if x.dtype in ("int64", "uint32"):
        wide = arithmetic.divide_int64(b, layout_moves.cast(b, x, "int64"), layout_moves.cast(b, y, "int64"))
        return [layout_moves.cast(b, wide, x.dtype)]
    if x.dtype == "uint64":
        b.lacks("DIV on uint64")
    return [arithmetic.div(b, x, y)]


def variadic_of(code: str) -> Lowering:
    """Return the lowering of Max, Min or Sum over any number of inputs."""

    def lower(b: Builder, n: Node) -> Sequence[Tensor]:
        made = n.input(0)
        for position in range(1, len(n.inputs)):
            made = arithmetic.binary(b, code, made, n.input(position))
        return [made if len(n.inputs) > 1 else layout_moves.reshape(b, made, made.shape)]

    return lower


def mean(b: Builder, n: Node) -> Sequence[Tensor]:
    """Mean of any number of inputs."""
    total = variadic_of("ADD")(b, n)[0]
    return [arithmetic.div(b, total, float(len(n.inputs)))]


def unary_of(code: str) -> Lowering:
    """Return the lowering of an operator that is one TFLite operator of one input."""

    def lower(b: Builder, n: Node) -> Sequence[Tensor]:
        return [arithmetic.unary(b, code, n.input(0))]

    return lower


def absolute(b: Builder, n: Node) -> Sequence[Tensor]:
    """Abs; the kernel has no int64, where max(x, -x) is the same."""
    x = n.input(0)
    if x.dtype.startswith("uint"):
        return [x]
    return [magnitude(b, x)]


def magnitude(b: Builder, x: Tensor) -> Tensor:
    """Return |x|."""
    if x.dtype == "int64":
        return arithmetic.binary(b, "MAXIMUM", x, arithmetic.unary(b, "NEG", x))
    return arithmetic.unary(b, "ABS", x)


def sign(b: Builder, n: Node) -> Sequence[Tensor]:
    """Sign."""
    x = n.input(0)
    if x.dtype in ("float32", "float16", "int32", "int16", "int8"):
        return [arithmetic.unary(b, "SIGN", x)]
    zero = arithmetic.scalar(b, 0, x)
    above = layout_moves.cast(b, arithmetic.binary(b, "GREATER", x, zero), "int32")
    below = layout_moves.cast(b, arithmetic.binary(b, "LESS", x, zero), "int32")
    return [layout_moves.cast(b, arithmetic.sub(b, above, below), x.dtype)]


def modulo(b: Builder, n: Node) -> Sequence[Tensor]:
    """Mod: the sign of the divisor, or with fmod that of the dividend."""
    x, y = n.input(0), n.input(1)
    if not n.get("fmod", 0):
        return [arithmetic.binary(b, "FLOOR_MOD", x, y)]
    if x.dtype.startswith("uint"):
        return [arithmetic.binary(b, "FLOOR_MOD", x, y)]
    rest = arithmetic.binary(b, "FLOOR_MOD", magnitude(b, x), magnitude(b, y))
    negative = arithmetic.binary(b, "LESS", x, arithmetic.scalar(b, 0, x))
    return [layout_moves.select(b, negative, arithmetic.unary(b, "NEG", rest), rest)]


def power(b: Builder, n: Node) -> Sequence[Tensor]:
    """Pow: small constant whole exponents are multiplied out, others go to POW where its type has one."""
    x, exponent = n.input(0), _old_broadcast(b, n)
    value = exponent.data
    if value is not None and value.size == 1 and float(value.reshape(())) in range(1, _POWERS_MAX + 1):
        shape = np.broadcast_shapes(x.shape, exponent.shape)
        return [layout_moves.reshape(b, whole_power(b, x, int(value.reshape(()))), shape)]
    if x.dtype in ("float32", "float16"):
        if exponent.dtype in ("float64", "uint64"):
            b.lacks(f"POW with a {exponent.dtype} exponent")
        return [arithmetic.binary(b, "POW", x, layout_moves.cast(b, exponent, x.dtype))]
    if exponent.dtype.startswith("float") or x.dtype not in ("int32", "int16", "int8", "uint8"):
        b.lacks(f"POW of {x.dtype} and {exponent.dtype}")
    if exponent.dtype != x.dtype:
        b.lacks(f"POW of {x.dtype} and {exponent.dtype}")
    return [arithmetic.binary(b, "POW", x, exponent)]


def whole_power(b: Builder, x: Tensor, exponent: int) -> Tensor:
    """Return x to a whole power of at least 1, by squaring."""
    made: Tensor | None = None
    square = x
    while exponent:
        if exponent & 1:
            made = square if made is None else arithmetic.mul(b, made, square)
        exponent >>= 1
        if exponent:
            square = arithmetic.mul(b, square, square)
    assert made is not None
    return made


def where(b: Builder, n: Node) -> Sequence[Tensor]:
    """Where."""
    return [layout_moves.select(b, n.input(0), n.input(1), n.input(2))]


def clip(b: Builder, n: Node) -> Sequence[Tensor]:
    """Clip: limits are attributes before opset 11. A lower limit above the upper one gives the upper one."""
    low = n.optional(1) if n.opset >= 11 else n.get("min")
    high = n.optional(2) if n.opset >= 11 else n.get("max")
    x = n.input(0)
    if x.dtype == "float32" and x.data is None and (_value(low), _value(high)) == (0.0, 6.0):
        return [arithmetic.unary(b, "RELU6", x)]
    return [arithmetic.clamp(b, x, low, high)]


def _value(limit: Tensor | float | None) -> float | None:
    """Return a limit that is known at compile time."""
    data = limit.data if isinstance(limit, Tensor) else limit
    return float(np.reshape(data, ())) if data is not None else None


def bit_shift(b: Builder, n: Node) -> Sequence[Tensor]:
    """BitShift: left is a product with a power of two from a table, since TFLite has only the shift to the right.

    A count below zero or of all bits and more shifts everything out; a signed number leaves its sign.
    """
    x, count = n.input(0), n.input(1)
    bits = np.dtype(x.dtype).itemsize * 8
    count = _counted(b, count, bits)
    if n.text("direction", "LEFT") == "RIGHT":
        return [_shift_right(b, x, count, bits)]
    powers = b.const(np.array([*(1 << i for i in range(bits)), 0], np.uint64).astype(x.dtype))
    return [arithmetic.mul(b, x, layout_moves.gather(b, powers, count, 0))]


def _counted(b: Builder, count: Tensor, bits: int) -> Tensor:
    """Return counts as int32 in 0 … bits, where `bits` stands for all that shift everything out."""
    if count.dtype in ("int8", "int16", "int32", "int64"):
        odd = arithmetic.binary(b, "LESS", count, arithmetic.scalar(b, 0, count))
        return layout_moves.select(
            b,
            odd,
            b.const(np.int32(bits)),
            layout_moves.cast(b, arithmetic.clamp(b, count, 0, min(bits, 127)), "int32"),
        )
    return layout_moves.cast(b, arithmetic.clamp(b, count, None, bits), "int32")


def _shift_right(b: Builder, x: Tensor, count: Tensor, bits: int) -> Tensor:
    if bits == 64:
        return _shift_right_64(b, x, count)
    signed = not x.dtype.startswith("uint")
    kind = x.dtype if x.dtype in ("int32", "uint32") else "int32"
    inside = layout_moves.cast(b, arithmetic.clamp(b, count, None, bits - 1), kind)
    shifted = layout_moves.cast(b, arithmetic.binary(b, "RIGHT_SHIFT", layout_moves.cast(b, x, kind), inside), x.dtype)
    if signed:
        return shifted
    gone = arithmetic.binary(b, "EQUAL", count, b.const(np.int32(bits)))
    return layout_moves.select(b, gone, arithmetic.scalar(b, 0, x), shifted)


def _shift_right_64(b: Builder, x: Tensor, count: Tensor) -> Tensor:
    """Shift 64-bit numbers as two words: what leaves the high word comes into the low one."""
    signed = x.dtype == "int64"
    words = _words(b, x, x.dtype)
    low = layout_moves.bitcast(b, layout_moves.index(b, words, words.rank - 1, 0), "uint32")
    high = layout_moves.bitcast(b, layout_moves.index(b, words, words.rank - 1, 1), "int32" if signed else "uint32")
    powers = b.const(np.array([*(1 << i for i in range(32)), 0], np.uint32))
    small = arithmetic.clamp(b, count, None, 31)
    rest = arithmetic.clamp(b, arithmetic.sub(b, count, 32.0), 0, 31)
    unsigned_high = layout_moves.bitcast(b, high, "uint32")
    # The left part of the low word is the high one times 2^(32 - n); for n = 0 nothing comes in.
    incoming = arithmetic.mul(
        b, unsigned_high, layout_moves.gather(b, powers, arithmetic.clamp(b, arithmetic.sub(b, 32.0, count), 0, 32), 0)
    )
    shifted_low = arithmetic.binary(b, "RIGHT_SHIFT", low, layout_moves.cast(b, small, "uint32"))
    near_low = arithmetic.add(b, shifted_low, incoming)
    near_high = arithmetic.binary(b, "RIGHT_SHIFT", high, layout_moves.cast(b, small, high.dtype))
    far_low = layout_moves.bitcast(
        b, arithmetic.binary(b, "RIGHT_SHIFT", high, layout_moves.cast(b, rest, high.dtype)), "uint32"
    )
    fill = (
        arithmetic.binary(b, "RIGHT_SHIFT", high, b.const(31, high.dtype)) if signed else arithmetic.mul(b, high, 0.0)
    )
    far = arithmetic.binary(b, "GREATER_EQUAL", count, b.const(np.int32(32)))
    gone = arithmetic.binary(b, "GREATER_EQUAL", count, b.const(np.int32(64)))
    fill_low = layout_moves.bitcast(b, fill, "uint32")
    new_low = layout_moves.select(b, gone, fill_low, layout_moves.select(b, far, far_low, near_low))
    new_high = layout_moves.select(b, far, fill, near_high)
    both = layout_moves.stack(
        b, [layout_moves.bitcast(b, new_low, "int32"), layout_moves.bitcast(b, new_high, "int32")], x.rank
    )
    return b.emit("BITCAST", [both], x.dtype, both.shape[:-1])


def bitwise_of(code: str) -> Lowering:
    """Return the lowering of BitwiseAnd, BitwiseOr or BitwiseXor, on int32 words: x + y = 2 (x and y) + (x xor y)."""

    def lower(b: Builder, n: Node) -> Sequence[Tensor]:
        x, y = n.input(0), n.input(1)
        wide = np.dtype(x.dtype).itemsize >= 4
        left, right = (_words(b, t, x.dtype) if wide else layout_moves.cast(b, t, "int32") for t in (x, y))
        if np.dtype(x.dtype).itemsize == 8 and x.rank != y.rank:
            rank = max(x.rank, y.rank)
            left, right = (layout_moves.reshape(b, t, [*[1] * (rank + 1 - t.rank), *t.shape]) for t in (left, right))
        made = arithmetic.binary(b, "BITWISE_XOR", left, right)
        if code != "XOR":
            both = _and_in_halves(b, left, right) if wide else _and(b, left, right)
            made = both if code == "AND" else arithmetic.add(b, made, both)
        if not wide:
            return [layout_moves.cast(b, made, x.dtype)]
        if np.dtype(x.dtype).itemsize == 4:
            return [layout_moves.bitcast(b, made, x.dtype)]
        return [b.emit("BITCAST", [made], x.dtype, made.shape[:-1])]

    return lower


def _words(b: Builder, x: Tensor, dtype: str) -> Tensor:
    """Return 32-bit words of the bits: 64-bit numbers get a last axis of two."""
    if np.dtype(dtype).itemsize == 4:
        return layout_moves.bitcast(b, x, "int32")
    done = b.folded(lambda a: np.ascontiguousarray(a).view(np.int32).reshape([*a.shape, 2]), x)
    return done or b.emit("BITCAST", [x], "int32", [*x.shape, 2])


def _and(b: Builder, x: Tensor, y: Tensor) -> Tensor:
    """Return x and y of int32 numbers whose sum fits."""
    apart = arithmetic.binary(b, "BITWISE_XOR", x, y)
    return arithmetic.binary(b, "RIGHT_SHIFT", arithmetic.sub(b, arithmetic.add(b, x, y), apart), b.const(1, "int32"))


def _and_in_halves(b: Builder, x: Tensor, y: Tensor) -> Tensor:
    sixteen = b.const(16, "int32")
    high = [arithmetic.binary(b, "RIGHT_SHIFT", t, sixteen) for t in (x, y)]
    low = [arithmetic.sub(b, t, arithmetic.mul(b, h, 1 << 16)) for t, h in zip((x, y), high, strict=True)]
    return arithmetic.add(b, arithmetic.mul(b, _and(b, *high), 1 << 16), _and(b, *low))


def bitwise_not(b: Builder, n: Node) -> Sequence[Tensor]:
    """BitwiseNot: -1 - x in two's complement."""
    x = n.input(0)
    minus_one = b.const(np.array(-1, np.int64).astype(x.dtype))
    return [arithmetic.sub(b, minus_one, x)]


def is_nan(b: Builder, n: Node) -> Sequence[Tensor]:
    """IsNaN: only NaN differs from itself."""
    x = n.input(0)
    x = layout_moves.cast(b, x, "float32") if x.dtype == "float16" else x
    return [arithmetic.binary(b, "NOT_EQUAL", x, x)]


def is_inf(b: Builder, n: Node) -> Sequence[Tensor]:
    """IsInf, either sign or one of them."""
    x = n.input(0)
    x = layout_moves.cast(b, x, "float32") if x.dtype == "float16" else x
    positive, negative = n.get("detect_positive", 1), n.get("detect_negative", 1)
    if positive and negative:
        return [arithmetic.binary(b, "EQUAL", arithmetic.unary(b, "ABS", x), arithmetic.scalar(b, np.inf, x))]
    if not positive and not negative:
        return [b.const(np.zeros(x.shape, bool))]
    return [arithmetic.binary(b, "EQUAL", x, arithmetic.scalar(b, np.inf if positive else -np.inf, x))]


LOWERINGS: dict[str, Lowering] = {
    "Add": binary_of("ADD"), "Sub": binary_of("SUB"), "Mul": binary_of("MUL"), "Div": divide, "Mod": modulo,
    "Pow": power, "Max": variadic_of("MAXIMUM"), "Min": variadic_of("MINIMUM"), "Sum": variadic_of("ADD"),
    "Mean": mean, "Equal": binary_of("EQUAL"), "Less": binary_of("LESS"), "LessOrEqual": binary_of("LESS_EQUAL"),
    "Greater": binary_of("GREATER"), "GreaterOrEqual": binary_of("GREATER_EQUAL"), "And": binary_of("LOGICAL_AND"),
    "Or": binary_of("LOGICAL_OR"), "Xor": binary_of("NOT_EQUAL"), "Not": unary_of("LOGICAL_NOT"),
    "Neg": unary_of("NEG"), "Abs": absolute, "Exp": unary_of("EXP"), "Log": unary_of("LOG"),
    "Sqrt": unary_of("SQRT"), "Floor": unary_of("FLOOR"), "Ceil": unary_of("CEIL"), "Round": unary_of("ROUND"),
    "Sign": sign, "Where": where, "Clip": clip, "BitShift": bit_shift, "BitwiseAnd": bitwise_of("AND"),
    "BitwiseOr": bitwise_of("OR"), "BitwiseXor": bitwise_of("XOR"), "BitwiseNot": bitwise_not, "IsNaN": is_nan,
    "IsInf": is_inf,
}  # fmt: skip
