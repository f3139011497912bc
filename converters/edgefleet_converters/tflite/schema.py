"""Slot numbers of the TFLite schema 3 that the writer needs: option tables of the operators the compiler emits.

Source: `schema.fbs`, union BuiltinOptions and its tables; `test_schema.py` compares them with the copy that LiteRT ships.
"""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Field:
    """One field of an option table. kind: int8, bool, int32, int64, float32 or ints (a vector of int32)."""

    slot: int
    kind: str
    default: float = 0


@dataclass(frozen=True)
class Options:
    """One option table. union: its number in BuiltinOptions."""

    union: int
    fields: dict[str, Field]


_ACTIVATION: Final = {"fused_activation_function": Field(0, "int8")}
_SUM: Final = {**_ACTIVATION, "pot_scale_int16": Field(1, "bool", 1)}
_CONV: Final = {
    "padding": Field(0, "int8"),
    "stride_w": Field(1, "int32"),
    "stride_h": Field(2, "int32"),
}
_NONE: Final[dict[str, Field]] = {}
_REDUCER: Final = Options(27, {"keep_dims": Field(0, "bool")})
_POOL: Final = Options(
    5,
    {
        **_CONV,
        "filter_width": Field(3, "int32"),
        "filter_height": Field(4, "int32"),
        "fused_activation_function": Field(5, "int8"),
    },
)
_CONV_3D: Final = Options(
    106,
    {
        "padding": Field(0, "int8"),
        "stride_d": Field(1, "int32"),
        "stride_w": Field(2, "int32"),
        "stride_h": Field(3, "int32"),
        "fused_activation_function": Field(4, "int8"),
        "dilation_d_factor": Field(5, "int32", 1),
        "dilation_w_factor": Field(6, "int32", 1),
        "dilation_h_factor": Field(7, "int32", 1),
    },
)

OPTIONS: Final[dict[str, Options]] = {
    "CONV_2D": Options(
        1,
        {
            **_CONV,
            "fused_activation_function": Field(3, "int8"),
            "dilation_w_factor": Field(4, "int32", 1),
            "dilation_h_factor": Field(5, "int32", 1),
            "quantized_bias_type": Field(6, "int8"),
        },
    ),
    "DEPTHWISE_CONV_2D": Options(
        2,
        {
            **_CONV,
            "depth_multiplier": Field(3, "int32"),
            "fused_activation_function": Field(4, "int8"),
            "dilation_w_factor": Field(5, "int32", 1),
            "dilation_h_factor": Field(6, "int32", 1),
        },
    ),
    "AVERAGE_POOL_2D": _POOL,
    "MAX_POOL_2D": _POOL,
    "FULLY_CONNECTED": Options(
        8,
        {
            **_ACTIVATION,
            "weights_format": Field(1, "int8"),
            "keep_num_dims": Field(2, "bool"),
            "asymmetric_quantize_inputs": Field(3, "bool"),
            "quantized_bias_type": Field(4, "int8"),
        },
    ),
    "SOFTMAX": Options(9, {"beta": Field(0, "float32")}),
    "CONCATENATION": Options(10, {"axis": Field(0, "int32"), "fused_activation_function": Field(1, "int8")}),
    "ADD": Options(11, _SUM),
    "LOCAL_RESPONSE_NORMALIZATION": Options(
        13,
        {
            "radius": Field(0, "int32"),
            "bias": Field(1, "float32"),
            "alpha": Field(2, "float32"),
            "beta": Field(3, "float32"),
        },
    ),
    "RESIZE_BILINEAR": Options(15, {"align_corners": Field(2, "bool"), "half_pixel_centers": Field(3, "bool")}),
    "RESHAPE": Options(17, {"new_shape": Field(0, "ints")}),
    "SPACE_TO_DEPTH": Options(19, {"block_size": Field(0, "int32")}),
    "MUL": Options(21, _ACTIVATION),
    "PAD": Options(22, {}),
    "GATHER": Options(23, {"axis": Field(0, "int32"), "batch_dims": Field(1, "int32")}),
    "TRANSPOSE": Options(26, {}),
    "MEAN": _REDUCER,
    "SUM": _REDUCER,
    "REDUCE_MAX": _REDUCER,
    "REDUCE_MIN": _REDUCER,
    "REDUCE_PROD": _REDUCER,
    "REDUCE_ANY": _REDUCER,
    "REDUCE_ALL": _REDUCER,
    "SUB": Options(28, _SUM),
    "DIV": Options(29, _ACTIVATION),
    "STRIDED_SLICE": Options(
        32,
        {
            "begin_mask": Field(0, "int32"),
            "end_mask": Field(1, "int32"),
            "ellipsis_mask": Field(2, "int32"),
            "new_axis_mask": Field(3, "int32"),
            "shrink_axis_mask": Field(4, "int32"),
            "offset": Field(5, "bool"),
        },
    ),
    "TOPK_V2": Options(34, {}),
    "CAST": Options(37, {"in_data_type": Field(0, "int8"), "out_data_type": Field(1, "int8")}),
    "ARG_MAX": Options(40, {"output_type": Field(0, "int8")}),
    "TRANSPOSE_CONV": Options(
        49, {**_CONV, "fused_activation_function": Field(3, "int8"), "quantized_bias_type": Field(4, "int8")}
    ),
    "ARG_MIN": Options(57, {"output_type": Field(0, "int8")}),
    "PACK": Options(59, {"values_count": Field(0, "int32"), "axis": Field(1, "int32")}),
    "ONE_HOT": Options(61, {"axis": Field(0, "int32")}),
    "LEAKY_RELU": Options(75, {"alpha": Field(0, "float32")}),
    "RESIZE_NEAREST_NEIGHBOR": Options(74, {"align_corners": Field(0, "bool"), "half_pixel_centers": Field(1, "bool")}),
    "MIRROR_PAD": Options(77, {"mode": Field(0, "int8")}),
    "UNIQUE": Options(80, {"idx_out_type": Field(0, "int8", 2)}),
    "REVERSE_SEQUENCE": Options(87, {"seq_dim": Field(0, "int32"), "batch_dim": Field(1, "int32")}),
    "DEPTH_TO_SPACE": Options(94, {"block_size": Field(0, "int32")}),
    "BATCH_MATMUL": Options(
        101, {"adj_x": Field(0, "bool"), "adj_y": Field(1, "bool"), "asymmetric_quantize_inputs": Field(2, "bool")}
    ),
    "CUMSUM": Options(102, {"exclusive": Field(0, "bool"), "reverse": Field(1, "bool")}),
    "CONV_3D": _CONV_3D,
    "CONV_3D_TRANSPOSE": _CONV_3D,
    "GELU": Options(116, {"approximate": Field(0, "bool")}),
    "BITCAST": Options(125, {}),
    "ABS": Options(78, _NONE),
    "ADD_N": Options(82, _NONE),
    "BROADCAST_TO": Options(104, _NONE),
    "COS": Options(84, _NONE),
    "DYNAMIC_UPDATE_SLICE": Options(117, _NONE),
    "EXP": Options(33, _NONE),
    "EXPAND_DIMS": Options(52, _NONE),
    "FILL": Options(68, _NONE),
    "GATHER_ND": Options(83, _NONE),
    "HARD_SWISH": Options(91, _NONE),
    "L2_NORMALIZATION": Options(12, _ACTIVATION),
    "L2_POOL_2D": _POOL,
    "LOG_SOFTMAX": Options(36, _NONE),
    "NEG": Options(42, _NONE),
    "POW": Options(56, _NONE),
    "RANGE": Options(73, _NONE),
    "RANK": Options(86, _NONE),
    "REVERSE_V2": Options(81, _NONE),
    "SCATTER_ND": Options(97, _NONE),
    "SELECT": Options(47, _NONE),
    "SELECT_V2": Options(98, _NONE),
    "SHAPE": Options(55, {"out_type": Field(0, "int8")}),
    "SPLIT": Options(35, {"num_splits": Field(0, "int32")}),
    "SPLIT_V": Options(79, {"num_splits": Field(0, "int32")}),
    "SQUARE": Options(66, _NONE),
    "SQUEEZE": Options(30, {"squeeze_dims": Field(0, "ints")}),
    "TILE": Options(51, _NONE),
    "UNPACK": Options(64, {"num": Field(0, "int32"), "axis": Field(1, "int32")}),
    "WHERE": Options(85, _NONE),
    "WHILE": Options(93, {"cond_subgraph_index": Field(0, "int32"), "body_subgraph_index": Field(1, "int32")}),
}
"""Operators that need options, or that a runtime refuses without a table. Others are written without."""
