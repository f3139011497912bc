"""Which version an operator needs, so that an old runtime refuses what it cannot do instead of doing something else.

Source: the rules of TensorFlow's `tools/versioning/op_version.cc`, for the operators and types that the compiler emits.
"""

from typing import Final

from edgefleet_converters.tflite.ir import Op

_BY_DTYPE: Final[dict[str, dict[str, int]]] = {
    "ABS": {"int8": 2, "int16": 4, "int32": 5},
    "ADD": {"int8": 2, "int16": 5, "int64": 4},
    "ARG_MAX": {"int8": 2, "bool": 3},
    "ARG_MIN": {"int8": 2, "bool": 3},
    "AVERAGE_POOL_2D": {"int8": 2},
    "BATCH_MATMUL": {"int8": 2, "int16": 3},
    "CONCATENATION": {"int8": 2, "int16": 3, "uint32": 4},
    "DEPTH_TO_SPACE": {"int8": 2},
    "DEQUANTIZE": {"int8": 2, "int16": 3, "float16": 3},
    "EQUAL": {"int8": 2, "int16": 4},
    "EXP": {"int8": 2, "int16": 2},
    "FLOOR_DIV": {"float32": 2, "int8": 3, "int16": 3},
    "FLOOR_MOD": {"int8": 2, "int16": 2},
    "GATHER": {"int8": 2, "bool": 3, "int16": 4},
    "GATHER_ND": {"int16": 3, "bool": 5},
    "GELU": {"int8": 2},
    "GREATER": {"int8": 2},
    "GREATER_EQUAL": {"int8": 2, "int16": 3},
    "LEAKY_RELU": {"int8": 2},
    "LESS": {"int8": 2, "int16": 3},
    "LESS_EQUAL": {"int8": 2},
    "LOGISTIC": {"int8": 2},
    "LOG_SOFTMAX": {"int8": 2},
    "MAXIMUM": {"int8": 2, "int16": 4},
    "MAX_POOL_2D": {"int8": 2, "int16": 3},
    "MEAN": {"int8": 2},
    "MINIMUM": {"int8": 2, "int16": 4},
    "MIRROR_PAD": {"int8": 2, "int16": 3},
    "MUL": {"int8": 2, "int16": 7, "int64": 5, "uint32": 7},
    "NOT_EQUAL": {"int8": 2},
    "PACK": {"int8": 2, "int16": 3, "uint32": 4},
    "QUANTIZE": {"int8": 2, "uint8": 2},
    "RANGE": {"int64": 2},
    "REDUCE_MAX": {"int8": 2, "int16": 3},
    "REDUCE_MIN": {"int8": 2, "int16": 3},
    "RELU": {"int8": 2},
    "RELU6": {"int8": 2},
    "REVERSE_V2": {"bool": 2, "int8": 3},
    "RSQRT": {"int8": 2},
    "SIGN": {"int32": 2},
    "SOFTMAX": {"int8": 2},
    "SPACE_TO_DEPTH": {"int8": 2},
    "SQUARED_DIFFERENCE": {"int8": 2},
    "SUB": {"int8": 2, "int64": 4},
    "SUM": {"int8": 2},
    "TANH": {"int8": 2},
    "TILE": {"int8": 3},
    "TOPK_V2": {"int8": 2, "int16": 3},
}
"""Type of the first input -> version; 1 where nothing is said."""

_ABOVE_FOUR: Final = {"MAXIMUM": 3, "MINIMUM": 3, "SUB": 3, "DIV": 2}
"""Version that broadcasts beyond four dimensions."""


def version_of(op: Op) -> int:
    """Return the lowest version of the operator that does what `op` asks, not below the one that it was read with."""
    return max(op.version, _needed(op))


def _needed(op: Op) -> int:
    first = op.inputs[0]
    dtype = first.dtype if first is not None else ""
    rank = max((t.rank for t in op.inputs if t is not None), default=0)
    rule = _RULES.get(op.code)
    if rule is not None:
        return rule(op, dtype, rank)
    version = _BY_DTYPE.get(op.code, {}).get(dtype, 1)
    if op.code in _ABOVE_FOUR and rank > 4 and len({t.shape for t in op.inputs if t is not None}) > 1:
        version = max(version, _ABOVE_FOUR[op.code])
    return version


def _conv(op: Op, dtype: str, _rank: int) -> int:
    data, weights = op.inputs[0], op.inputs[1]
    assert data is not None
    assert weights is not None
    if data.shape[3] != weights.shape[3]:
        return 6
    if dtype == "float32" and weights.dtype == "int8":
        return 5 if _per_channel(op) else 2
    return {"int8": 3, "int16": 4}.get(dtype, 1)


def _per_channel(op: Op) -> bool:
    weights = op.inputs[1]
    return weights is not None and weights.quantization is not None and len(weights.quantization.scale) > 1


def _depthwise(op: Op, dtype: str, _rank: int) -> int:
    weights = op.inputs[1]
    if dtype == "float32" and weights is not None and weights.dtype == "int8":
        return 6 if _per_channel(op) else 4
    if dtype in ("int8", "int16"):
        return 5 if dtype == "int16" else 3
    return 2 if op.options.get("dilation_w_factor", 1) != 1 or op.options.get("dilation_h_factor", 1) != 1 else 1


def _fully_connected(op: Op, dtype: str, _rank: int) -> int:
    if dtype == "int16":
        return 7
    if dtype == "int8" and _per_channel(op):
        return 12
    weights = op.inputs[1]
    small = 4 if dtype == "int8" else 3 if weights is not None and weights.dtype == "int8" else 1
    if len(op.inputs) == 2 or op.inputs[2] is None:
        return 6
    return 5 if op.options.get("keep_num_dims") else small


def _transpose(_op: Op, dtype: str, rank: int) -> int:
    if rank > 4:
        return 6 if rank > 5 else 4
    return {"int8": 2, "bool": 3, "int16": 5}.get(dtype, 1)


def _transpose_conv(op: Op, _dtype: str, _rank: int) -> int:
    weights = op.inputs[1]
    return 3 if len(op.inputs) == 4 else 2 if weights is not None and weights.dtype == "int8" else 1


def _slice(_op: Op, dtype: str, rank: int) -> int:
    if dtype == "uint32":
        return 6
    return 5 if rank > 4 else {"int8": 2, "int16": 4}.get(dtype, 1)


def _strided_slice(op: Op, dtype: str, _rank: int) -> int:
    if dtype == "uint32":
        return 7
    data = op.inputs[0]
    assert data is not None
    return 4 if data.rank > 4 else {"int8": 2, "bool": 3}.get(dtype, 1)


def _pad(_op: Op, dtype: str, rank: int) -> int:
    return 4 if rank > 4 else {"int8": 2, "int16": 3}.get(dtype, 1)


def _gather(op: Op, dtype: str, _rank: int) -> int:
    return 5 if op.options.get("batch_dims") else _BY_DTYPE["GATHER"].get(dtype, 1)


def _cast(op: Op, dtype: str, _rank: int) -> int:
    both = {dtype, op.outputs[0].dtype}
    for names, version in ((("float64", "float16"), 5), (("uint16",), 4), (("int8",), 3), (("uint32",), 2)):
        if both & set(names):
            return version
    return 1


def _select(_op: Op, _dtype: str, rank: int) -> int:
    return 3 if rank == 5 else 1


def _resize(op: Op, dtype: str, _rank: int) -> int:
    corners = op.code == "RESIZE_NEAREST_NEIGHBOR" and op.options.get("align_corners")
    return 3 if op.options.get("half_pixel_centers") or corners else 2 if dtype == "int8" else 1


def _broadcast_to(_op: Op, dtype: str, _rank: int) -> int:
    return 3 if dtype in ("int8", "int16") else 2


def _fill(op: Op, _dtype: str, _rank: int) -> int:
    return {"float16": 4, "int8": 3, "int16": 3, "bool": 2}.get(op.outputs[0].dtype, 1)


def _where(_op: Op, dtype: str, _rank: int) -> int:
    return 1 if dtype == "bool" else 2


def _dequantize(op: Op, dtype: str, _rank: int) -> int:
    """5: one scale for each channel."""
    stored = op.inputs[0]
    many = stored is not None and stored.quantization is not None and len(stored.quantization.scale) > 1
    return 5 if many else _BY_DTYPE["DEQUANTIZE"].get(dtype, 1)


_RULES: Final = {
    "DEQUANTIZE": _dequantize,
    "CONV_2D": _conv, "DEPTHWISE_CONV_2D": _depthwise, "FULLY_CONNECTED": _fully_connected, "TRANSPOSE": _transpose,
    "TRANSPOSE_CONV": _transpose_conv, "SLICE": _slice, "STRIDED_SLICE": _strided_slice, "PAD": _pad, "PADV2": _pad,
    "GATHER": _gather, "CAST": _cast, "SELECT": _select, "RESIZE_BILINEAR": _resize,
    "RESIZE_NEAREST_NEIGHBOR": _resize, "BROADCAST_TO": _broadcast_to, "FILL": _fill, "WHERE": _where,
}  # fmt: skip
