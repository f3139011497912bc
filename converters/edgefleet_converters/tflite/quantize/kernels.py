"""Which int8 kernels each runtime has, and what they ask of scales.

free: each input and the result has a scale of its own. same: all float inputs are stored with the result's scale, since the
kernel only moves or compares stored numbers. weighted: int8 weights, symmetric and one scale a channel, with an int32 bias.
An operator that is not listed stays float32. Rows were kept only where the answers of the file were right when it was run
(`bench/onnx_to_tflite_int8.py`, and `test_int8_kernels.py` for rows that it does not reach); comments next to them name the known traps.
Sources: TFLite 8-bit quantization specification; the kernels' own checks of types and scales.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from edgefleet_converters.tflite.ir import Op, Quantization


@dataclass(frozen=True)
class Kernel:
    """One int8 kernel. result: the only scale it writes, where there is one. max_rank: of any float tensor it takes.

    axis: of `weighted`, the channel axis of the weights; None = one scale for all.
    """

    scales: Literal["free", "same", "weighted"]
    result: Quantization | None = None
    max_rank: int = 8
    axis: int | None = None


_FREE: Final = Kernel("free")
_FREE4: Final = Kernel("free", max_rank=4)
_SAME: Final = Kernel("same")
_SAME4: Final = Kernel("same", max_rank=4)
_PROBABILITY: Final = Kernel("free", Quantization((1 / 256,), (-128,)))

_BOTH: Final[dict[str, Kernel]] = {
    "CONV_2D": Kernel("weighted", axis=0),
    "DEPTHWISE_CONV_2D": Kernel("weighted", axis=3),
    "FULLY_CONNECTED": Kernel("weighted", axis=0),
    "TRANSPOSE_CONV": Kernel("weighted", axis=0),
    "ADD": _FREE, "SUB": _FREE, "MUL": _FREE, "BATCH_MATMUL": _FREE, "MEAN": _FREE, "SUM": _FREE,
    "RELU": _FREE, "RELU6": _FREE, "LEAKY_RELU": _FREE, "PRELU": _FREE4, "HARD_SWISH": _FREE, "ELU": _FREE,
    "GELU": _FREE, "ABS": _FREE, "EXP": _FREE, "RSQRT": _FREE, "SQUARED_DIFFERENCE": _FREE4,
    "LOGISTIC": _PROBABILITY, "SOFTMAX": _PROBABILITY,
    "TANH": Kernel("free", Quantization((1 / 128,), (0,))),
    "LOG_SOFTMAX": Kernel("free", Quantization((16 / 256,), (127,))),
    "RESHAPE": _SAME, "TRANSPOSE": _SAME, "CONCATENATION": _SAME, "PACK": _SAME, "SLICE": _SAME, "STRIDED_SLICE": _SAME,
    "GATHER": _SAME, "GATHER_ND": _SAME, "PAD": _SAME, "PADV2": _SAME, "MIRROR_PAD": _SAME, "TILE": _SAME,
    "MAX_POOL_2D": _SAME, "AVERAGE_POOL_2D": _SAME, "REDUCE_MAX": _SAME, "REDUCE_MIN": _SAME, "MAXIMUM": _SAME,
    "MINIMUM": _SAME, "RESIZE_BILINEAR": _SAME, "RESIZE_NEAREST_NEIGHBOR": _SAME, "DEPTH_TO_SPACE": _SAME4,
    "SPACE_TO_DEPTH": _SAME4, "SELECT_V2": _SAME, "REVERSE_V2": _SAME, "BROADCAST_TO": _SAME,
}  # fmt: skip

_214: Final[dict[str, Kernel]] = {
    # Its FULLY_CONNECTED ends at version 11; scales for each channel came with 12.
    "FULLY_CONNECTED": Kernel("weighted", axis=None),
}

_FINE: Final = Kernel("free", Quantization((1 / 32768,), (0,)))
_INT16: Final[dict[str, Kernel]] = {
    **{code: _BOTH[code] for code in (
        "CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV", "ADD", "SUB", "MUL", "BATCH_MATMUL", "MEAN",
        "RELU", "RELU6", "LEAKY_RELU", "RESHAPE", "TRANSPOSE", "CONCATENATION", "PACK", "SLICE", "STRIDED_SLICE", "GATHER", "PAD",
        "PADV2", "MAX_POOL_2D", "AVERAGE_POOL_2D", "REDUCE_MAX", "REDUCE_MIN", "MAXIMUM", "MINIMUM", "RESIZE_BILINEAR",
        "RESIZE_NEAREST_NEIGHBOR",
    )},
    "LOGISTIC": _FINE, "TANH": _FINE, "SOFTMAX": _FINE,
}  # fmt: skip
"""Kernels with int16 activations, int8 weights and int64 biases, of LiteRT; 2.14 ends the process on TRANSPOSE
(`runtimes`). Nearly all run in reference kernels, many times slower than int8."""

KERNELS: Final[Mapping[str, Mapping[str, Kernel]]] = {"tflite": _BOTH | _214, "litert": _BOTH}
KERNELS_INT16: Final[Mapping[str, Mapping[str, Kernel]]] = {"tflite": {}, "litert": _INT16}
"""Adapter of the runtime -> operator -> its int8 kernel."""

DECIDING_INT8: Final = ("ARG_MAX", "ARG_MIN", "EQUAL", "NOT_EQUAL", "LESS", "LESS_EQUAL", "GREATER", "GREATER_EQUAL")
"""Operators that choose among int8 values, both stored with one scale; what they give is no int8 value."""


def kernel_of(op: Op, adapter: str, act_dtype: str = "int8") -> Kernel | None:
    """Return the kernel for an operator; None where it must stay float32: by type, rank or number of results.

    act_dtype: of activations, int8 or int16.
    """
    kernel = (KERNELS_INT16 if act_dtype == "int16" else KERNELS)[adapter].get(op.code)
    if kernel is None or len(op.outputs) != 1 or op.outputs[0].dtype != "float32":
        return None
    tensors = [t for t in (*op.inputs, *op.outputs) if t is not None and t.dtype == "float32"]
    if any(t.rank > kernel.max_rank for t in tensors):
        return None
    if kernel.scales == "weighted":
        weights = op.inputs[1]
        biases = op.inputs[bias_position(op) :]
        fixed = weights is not None and weights.data is not None
        return kernel if fixed and all(b is None or b.data is not None for b in biases) else None
    return kernel


def bias_position(op: Op) -> int:
    """Return where the bias of a weighted operator stands, if it has one. Its weights are always the second input."""
    return 3 if op.code == "TRANSPOSE_CONV" else 2
