"""Scales and zero points of 8-bit tensors. Source: TFLite 8-bit quantization specification.

real = scale · (stored - zero point). Activations: int8 asymmetric, one pair a tensor. Weights: int8 symmetric in -127 … 127.
"""

import math
from dataclasses import replace
from typing import Final, TypeAlias

import numpy as np

from edgefleet_converters.tflite.ir import Array, Quantization, Tensor

Range: TypeAlias = tuple[float, float]
"""Smallest and largest real value that was seen."""

_LOW, _HIGH = -128, 127
_STEPS: Final = _HIGH - _LOW
_NARROW: Final = 127
_WIDEST: Final = 32767
_TINY: Final = 1e-7
"""Spans below this are taken as zero: the kernels' 32-bit multipliers cannot hold such scales."""
_BIAS_LIMIT: Final = 1 << 30


def finite(bounds: Range) -> bool:
    """Say whether a range can be stored in 8 bits at all."""
    return all(math.isfinite(value) and abs(value) < 1e30 for value in bounds)


def activation(bounds: Range, dtype: str = "int8") -> Quantization:
    """Return scale and zero point for a range. Zero is always stored exactly: padding and RELU need it.

    dtype: int8, or int16, which is symmetric: its kernels know no zero point.
    """
    low, high = min(bounds[0], 0.0), max(bounds[1], 0.0)
    if dtype == "int16":
        peak = max(high, -low, _TINY)
        return Quantization((float(np.float32(peak / _WIDEST)),), (0,))
    if high - low < _TINY:
        return Quantization((1.0 / _STEPS,), (0,))
    scale = float(np.float32((high - low) / _STEPS))
    zero = int(min(_HIGH, max(_LOW, round(_LOW - low / scale))))
    return Quantization((scale,), (zero,))


def times(quantization: Quantization, factor: float) -> Quantization:
    """Return the scale with which the same stored numbers (their order turned round by a factor below 0) are `factor` as large."""
    scale = float(np.float32(quantization.scale[0] * abs(factor)))
    zero = quantization.zero_point[0]
    return Quantization((scale,), (zero if factor > 0 else -1 - zero,))


def stored(values: Array, quantization: Quantization, dtype: str = "int8") -> Array:
    """Return int8 (or int16) of real values with one scale, rounded half to even and clipped."""
    scaled = np.rint(values.astype(np.float64) / quantization.scale[0]) + quantization.zero_point[0]
    limits = np.iinfo(dtype)
    return np.asarray(np.clip(scaled, limits.min, limits.max), dtype)


def constant_as(tensor: Tensor, quantization: Quantization, dtype: str = "int8") -> Tensor:
    """Return a float32 constant stored as int8 (or int16) with one scale."""
    data = stored(tensor.constant, quantization, dtype)
    return replace(tensor, name=f"{tensor.name}_{dtype}", dtype=dtype, data=data, quantization=quantization)


def weight_scales(values: Array, axis: int | None) -> Array:
    """Return symmetric scales float64: one for each index of `axis`, or one in all (None)."""
    if axis is None:
        peaks = np.array([np.abs(values).max(initial=0.0)], np.float64)
    else:
        others = tuple(i for i in range(values.ndim) if i != axis)
        peaks = np.abs(values).max(axis=others, initial=0.0).astype(np.float64)
    peaks[peaks < _TINY] = 1.0
    return np.asarray((peaks / _NARROW).astype(np.float32), np.float64)


def room_for_bias(scales: Array, bias: Array, input_scale: float) -> Array:
    """Return the scales, made larger where the bias would not fit 32 bits at input scale x weight scale."""
    needed = np.abs(bias.astype(np.float64)).reshape(-1) / (input_scale * _BIAS_LIMIT)
    needed = needed if len(scales) > 1 else np.array([needed.max(initial=0.0)])
    return np.asarray(np.maximum(scales, needed).astype(np.float32), np.float64)


def weights_as(tensor: Tensor, scales: Array, axis: int | None) -> Tensor:
    """Return a float32 constant stored as symmetric int8 with the scales of `weight_scales`."""
    values = tensor.constant.astype(np.float64)
    spread = scales.reshape([-1 if i == axis else 1 for i in range(values.ndim)]) if axis is not None else scales[0]
    data = np.asarray(np.clip(np.rint(values / spread), -_NARROW, _NARROW), np.int8)
    quantization = Quantization(tuple(float(s) for s in scales), (0,) * len(scales), axis or 0)
    return replace(tensor, name=f"{tensor.name}_int8", dtype="int8", data=data, quantization=quantization)


def bias_as(tensor: Tensor, input_scale: float, scales: Array, dtype: str = "int32") -> Tensor:
    """Return a float32 bias stored at input scale x weight scale, as the kernels add it to their sums.

    dtype: int32, or int64 next to int16 activations.
    """
    both = input_scale * scales
    limits = np.iinfo(np.int32)
    data = np.clip(np.rint(tensor.constant.astype(np.float64).reshape(-1) / both), limits.min, limits.max)
    quantization = Quantization(tuple(float(s) for s in both), (0,) * len(both))
    return replace(
        tensor, name=f"{tensor.name}_{dtype}", dtype=dtype, shape=(len(data),), data=data.astype(dtype),
        quantization=quantization,
    )  # fmt: skip
