"""Pictures of samples as PNG: the model's values back to 8 bits a channel, by the steps of `preprocess.json` that made them.

What is not a picture of 1, 3 or 4 channels is None here and is written as an array. A PNG is rounded to 8 bits; arrays are exact.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from typing import Any, Final

from edgefleet_cli.datasets.model import Array, ReleaseFacts, Sample
from edgefleet_cli.datasets.policy_check import height_width, numbers

_COLOURS: Final = {1: 0, 3: 2, 4: 6}
_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_SAME: Final = frozenset({"decode", "resize", "centre_crop", "pad", "layout", "cast"})


def picture(sample: Sample, name: str) -> tuple[bytes, int, int] | None:
    """Return (PNG, width, height) of a field, None when it is no picture."""
    value, facts = sample.values[name], sample.record.facts
    recipe, spec = facts.recipes.get(name), facts.inputs.get(name)
    if not isinstance(value, Array) or recipe is None or spec is None or recipe.get("from") != "image":
        return None
    # samples have lost the axis of the batch, which the layout may name
    rank = len(spec.layout)
    shape = (1, *value.shape) if rank == len(value.shape) + 1 or (not rank and len(value.shape) == 3) else value.shape
    axes = height_width(shape, spec)
    if axes is None or len(shape) not in {3, 4} or (len(shape) == 4 and shape[0] != 1):
        return None
    if len(shape) == 4:
        shape, axes = shape[1:], (axes[0] - 1, axes[1] - 1)
    height, width = shape[axes[0]], shape[axes[1]]
    (axis,) = {0, 1, 2} - set(axes)
    lines = _affine(facts, name, shape[axis])
    if shape[axis] not in _COLOURS or axis == 1 or axes[0] > axes[1] or lines is None or not height or not width:
        return None
    return _png(_interleaved(value, shape[axis], lines, is_first=axis == 0), width, height, shape[axis]), width, height


def _affine(facts: ReleaseFacts, name: str, channels: int) -> list[tuple[float, float]] | None:
    """Return (factor, offset) from a value back to 0 … 255, by channel; None where a step cannot be undone."""
    lines = [(1.0, 0.0)] * channels
    quantization = facts.inputs[name].quantization
    if quantization is not None:
        lines = [(quantization.scale, -quantization.scale * quantization.zero_point)] * channels
    for step in reversed(list(facts.recipes[name].get("steps", []))):
        match step.get("op"):
            case "normalise":
                means, stds = _each(step.get("mean"), channels), _each(step.get("std"), channels)
                if means is None or stds is None:
                    return None
                lines = [(a * std, b * std + mean) for (a, b), mean, std in zip(lines, means, stds, strict=True)]
            case "scale":
                factor, offset = float(step.get("factor", 1.0)), float(step.get("offset", 0.0))
                if not factor:
                    return None
                lines = [(a / factor, (b - offset) / factor) for a, b in lines]
            case word if word not in _SAME:
                return None
    return lines


def _each(value: Any, channels: int) -> list[float] | None:
    if isinstance(value, int | float):
        return [float(value)] * channels
    return [float(one) for one in value] if isinstance(value, list) and len(value) == channels else None


def _interleaved(array: Array, channels: int, lines: Sequence[tuple[float, float]], *, is_first: bool) -> bytes:
    """Return 8-bit values, pixel by pixel. is_first: the channels are the first axis."""
    values: Sequence[Any] = array.data if array.dtype == "|u1" else numbers(array)
    size = len(values) // channels
    out = bytearray(len(values))
    for channel, (factor, offset) in enumerate(lines):
        plane = values[channel * size : (channel + 1) * size] if is_first else values[channel::channels]
        if (factor, offset) == (1.0, 0.0) and isinstance(plane, bytes):
            out[channel::channels] = plane
        else:
            out[channel::channels] = bytes(_byte(one * factor + offset) for one in plane)
    return bytes(out)


def _byte(value: float) -> int:
    return int(value + 0.5) if 0.0 <= value <= 255.0 else 255 if value > 255.0 else 0  # NaN is 0


def _png(pixels: bytes, width: int, height: int, channels: int) -> bytes:
    stride = width * channels
    rows = b"".join(b"\x00" + pixels[row * stride : (row + 1) * stride] for row in range(height))
    head = struct.pack(">IIBBBBB", width, height, 8, _COLOURS[channels], 0, 0, 0)
    return _SIGNATURE + _chunk(b"IHDR", head) + _chunk(b"IDAT", zlib.compress(rows, 6)) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
