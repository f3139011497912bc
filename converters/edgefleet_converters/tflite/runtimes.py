"""What each TFLite runtime can do: operators, their highest version and the tensor types they compute rightly.

Measured with one-operator files on x86_64 (2026-11-25), each in a process of its own. A type is listed only where the answer
was right on tensors without quantization: many kernels read int8, uint8 and int16 as quantized and answer zeros or abort
there. int16 is no type of
TRANSPOSE: next to float operators, 2.14's XNNPACK delegate takes it and crashes. `test_runtimes.py` measures again what is
written here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

_F, _I = frozenset({"float32"}), frozenset({"int32", "int64"})
_FI: Final = _F | _I
_F32: Final = _F | {"int32"}
_BOOL: Final = frozenset({"bool"})
_SMALL: Final = frozenset({"int8", "uint8", "int16"})
_ANY: Final = _FI | _SMALL | _BOOL | {"float16", "float64", "uint16", "uint32", "uint64", "complex64"}
_MOVED: Final = _FI | _SMALL | _BOOL
_BITS: Final = frozenset({"int8", "uint8", "int16", "int32", "uint32"})

_BOTH: Final[dict[str, frozenset[str]]] = {
    "ABS": _F32 | {"int16"}, "ADD": _FI, "ARG_MAX": _F32 | {"int8", "uint8"}, "ARG_MIN": _F32 | {"int8", "uint8"},
    "ATAN2": _F, "AVERAGE_POOL_2D": _F, "BATCH_MATMUL": _F, "BITCAST": _ANY - _BOOL, "BITWISE_XOR": _BITS,
    "BROADCAST_TO": _ANY, "CAST": _ANY - {"uint64"}, "CEIL": _F, "CONCATENATION": _MOVED | {"uint32"}, "CONV_2D": _F,
    "CONV_3D": _F, "CONV_3D_TRANSPOSE": _F, "COS": _F, "CUMSUM": _FI, "DEPTHWISE_CONV_2D": _F,
    "DEPTH_TO_SPACE": _FI | {"int8", "uint8"}, "DIV": _F32,
    "DYNAMIC_UPDATE_SLICE": _F, "ELU": _F, "EQUAL": _FI | _BOOL | {"int16"}, "EXP": _F,
    "FILL": _FI | _BOOL, "FLOOR": _F, "FLOOR_DIV": _F32, "FLOOR_MOD": _FI, "FULLY_CONNECTED": _F, "GATHER": _MOVED,
    "GATHER_ND": _FI | _SMALL, "GELU": _F, "GREATER": _FI, "GREATER_EQUAL": _FI, "HARD_SWISH": _F, "LEAKY_RELU": _F,
    "LESS": _FI, "LESS_EQUAL": _FI, "LOCAL_RESPONSE_NORMALIZATION": _F, "LOG": _F, "LOGICAL_AND": _BOOL,
    "LOGICAL_NOT": _BOOL, "LOGICAL_OR": _BOOL, "LOGISTIC": _F, "LOG_SOFTMAX": _F, "MAXIMUM": _FI | _SMALL,
    "MAX_POOL_2D": _F, "MEAN": _F, "MINIMUM": _FI | _SMALL, "MIRROR_PAD": _FI | _SMALL, "MUL": _FI | {"uint32"},
    "NEG": _FI, "NON_MAX_SUPPRESSION_V4": _F, "NOT_EQUAL": _FI | _BOOL,
    "ONE_HOT": _FI | _BOOL | {"int8", "uint8"}, "PACK": _FI | _SMALL, "PAD": _FI | _SMALL, "PADV2": _FI | _SMALL,
    "POW": _F32, "PRELU": _F, "RANGE": _FI, "REDUCE_ALL": _BOOL, "REDUCE_ANY": _BOOL, "REDUCE_MAX": _FI | _SMALL,
    "REDUCE_MIN": _FI | _SMALL, "REDUCE_PROD": _FI, "RELU": _F, "RELU6": _F, "RESHAPE": _ANY, "RESIZE_BILINEAR": _F,
    "RESIZE_NEAREST_NEIGHBOR": _F, "REVERSE_SEQUENCE": _FI | {"uint8", "int16"}, "REVERSE_V2": _MOVED,
    "RIGHT_SHIFT": _BITS, "ROUND": _F, "RSQRT": _F, "SCATTER_ND": _FI | _BOOL | {"int8", "uint8"},
    "SELECT_V2": _MOVED | {"uint32"}, "SIGN": _F32, "SIN": _F, "SLICE": _MOVED | {"uint32"}, "SOFTMAX": _F,
    "SPACE_TO_DEPTH": _FI | {"int8", "uint8"}, "SQRT": _F, "SQUARE": _F, "SQUARED_DIFFERENCE": _F32,
    "STRIDED_SLICE": _MOVED | {"uint32"}, "SUB": _FI, "SUM": _FI, "TANH": _F, "TILE": _FI | _BOOL | {"int8", "uint8"},
    "TOPK_V2": _FI | {"int8", "uint8", "int16"}, "TRANSPOSE": _MOVED - {"int16"}, "TRANSPOSE_CONV": _F, "UNIQUE": _FI,
    "WHERE": _BOOL, "WHILE": frozenset({"int32"}),
}  # fmt: skip

_LITERT_MORE: Final[dict[str, frozenset[str]]] = {
    "PAD": _BOOL, "PADV2": _BOOL, "GATHER_ND": _BOOL, "TRANSPOSE": _ANY, "SLICE": _ANY, "STRIDED_SLICE": _ANY,
    "TILE": _ANY, "SELECT_V2": _ANY, "FILL": _ANY, "MIRROR_PAD": _ANY,
}  # fmt: skip

_VERSIONS_214: Final[dict[str, int]] = {"LOG": 1, "GATHER_ND": 4, "CAST": 5, "CONCATENATION": 4}


@dataclass(frozen=True)
class TfliteRuntime:
    """One runtime and version. adapter: its name in `edgefleet_runtime.port`.

    dtypes: operator -> types it computes. versions: highest version of an operator, where one matters. edge_dtypes: types that
    its Python interface takes in and gives out.
    """

    name: str
    adapter: str
    dtypes: Mapping[str, frozenset[str]]
    versions: Mapping[str, int]
    edge_dtypes: frozenset[str]

    def takes(self, code: str, dtype: str) -> bool:
        """Say whether the operator computes this type rightly."""
        return dtype in self.dtypes.get(code, frozenset())


TFLITE_214: Final = TfliteRuntime("tflite-2.14", "tflite", _BOTH, _VERSIONS_214, _ANY - {"uint16"})
LITERT_23: Final = TfliteRuntime(
    "litert-2.3",
    "litert",
    {code: dtypes | _LITERT_MORE.get(code, frozenset()) for code, dtypes in _BOTH.items()},
    {},
    _ANY,
)
_BUILT_IN: Final = frozenset({"tflite", "litert"})
CUSTOM_OPERATORS: Final[Mapping[str, frozenset[str]]] = {
    "AudioSpectrogram": _BUILT_IN, "Mfcc": _BUILT_IN, "NumericVerify": _BUILT_IN, "TFLite_Detection_PostProcess": _BUILT_IN,
    "aeq.hadamard_rotation": frozenset({"litert"}), "odml.scaled_dot_product_attention": frozenset({"litert"}),
}  # fmt: skip
"""Custom operator that a runtime registers by itself -> adapters of those that do. Any other needs code that is loaded beside it."""
BY_ADAPTER: Final = {"tflite": TFLITE_214, "litert": LITERT_23}
"""Runtime of a hardware profile -> what is known of it. One that is newer does all that an older one does."""
RUNTIMES: Final = {runtime.name: runtime for runtime in (TFLITE_214, LITERT_23)}
