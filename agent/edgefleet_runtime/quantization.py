"""Affine quantization at a model's edge: real = scale × (stored - zero_point). Source: TFLite 8-bit specification."""

import numpy as np

from edgefleet_protocol.manifest import Quantization, TensorSpec
from edgefleet_runtime.port import Array


def quantize_array(array: Array, quantization: Quantization, dtype: str) -> Array:
    """Return the stored integers of real values, rounded half to even and clipped to `dtype`. NaN becomes the zero point."""
    limits = np.iinfo(np.dtype(dtype))
    scaled = np.nan_to_num(np.rint(array.astype(np.float64) / quantization.scale), nan=0.0) + quantization.zero_point
    return np.asarray(np.clip(scaled, limits.min, limits.max), dtype=dtype)


def dequantize_array(array: Array, quantization: Quantization) -> Array:
    """Return the float32 real values of stored integers."""
    stored = array.astype(np.int32) - np.int32(quantization.zero_point)
    return stored.astype(np.float32) * np.float32(quantization.scale)


def real_values(spec: TensorSpec, array: Array) -> Array:
    """Return the array's real values: dequantized when the tensor is stored as integers with a scale, else unchanged."""
    if spec.quantization is None or array.dtype.kind not in "iu":
        return array
    return dequantize_array(array, spec.quantization)


def stored_values(spec: TensorSpec, array: Array) -> Array:
    """Return real values as the tensor stores them: quantized where it has a scale; arrays that are no floats as they are."""
    if spec.quantization is None or array.dtype.kind != "f" or spec.dtype == array.dtype.name:
        return array
    return quantize_array(array, spec.quantization, spec.dtype)
