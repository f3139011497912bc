"""Fourier transforms as matrix products with constant cosines and sines. Source: the ONNX operator pages of DFT and STFT."""

from collections.abc import Sequence

import numpy as np

from edgefleet_converters.tflite import arithmetic, layout_moves
from edgefleet_converters.tflite.builder import Builder
from edgefleet_converters.tflite.ir import Array, Tensor
from edgefleet_converters.tflite.lower.reductions import by_axis
from edgefleet_converters.tflite.lower.shapes import promised
from edgefleet_converters.tflite.node import Lowering, Node


def dft(b: Builder, n: Node) -> Sequence[Tensor]:
    """DFT and its inverse, of real or complex signals, whole or one-sided."""
    x = n.input(0)
    if x.dtype != "float32":
        b.lacks(f"BATCH_MATMUL on {x.dtype}")
    if n.given(1) and n.array(1) is None:
        b.not_compiled("DFT with a length known only at run time")
    given = n.array(1)
    inverse, onesided = bool(n.get("inverse", 0)), bool(n.get("onesided", 0))
    axis = n.optional(2) if n.opset >= 20 else None
    if axis is None:
        axis = b.const(np.array(-2 if n.opset >= 20 else n.get("axis", 1), np.int64))

    def make(at: int) -> Tensor:
        length = (
            int(given.reshape(())) if given is not None else _whole_length(x.shape[at], inverse=inverse and onesided)
        )
        return transformed(b, x, at, length, inverse=inverse, onesided=onesided)

    shapes = [x.shape] * (x.rank - 1) if not onesided else [[a] for a in range(x.rank - 1)]
    if axis.data is None and onesided:
        wanted = promised(b, n, "an axis")
        fits = [a for a in range(x.rank - 1) if _onesided_shape(x.shape, a, inverse=inverse) == list(wanted)]
        if len(fits) != 1:
            b.not_compiled("a one-sided DFT with an axis known only at run time")
        return [make(fits[0])]
    return [by_axis(b, axis, x.rank, shapes, make)]


def _whole_length(length: int, *, inverse: bool) -> int:
    return 2 * (length - 1) if inverse else length


def _onesided_shape(shape: Sequence[int], axis: int, *, inverse: bool) -> list[int]:
    length = 2 * (shape[axis] - 1) if inverse else shape[axis] // 2 + 1
    return [*(length if i == axis else v for i, v in enumerate(shape[:-1])), 1 if inverse else 2]


def transformed(b: Builder, x: Tensor, axis: int, length: int, *, inverse: bool, onesided: bool) -> Tensor:
    """Return the transform of [..., 1 or 2] along `axis`; the signal is cut or padded with zeros to `length`."""
    if inverse and onesided:
        return _real_inverse(b, x, axis, length)
    rank = x.rank
    used = min(length, x.shape[axis])
    signal = layout_moves.take(b, x, axis, 0, used)
    order = [*(i for i in range(rank - 1) if i != axis), axis, rank - 1]
    turned = layout_moves.transpose(b, signal, order)
    rows = layout_moves.reshape(b, turned, [layout_moves.size(turned.shape[:-2]), used * x.shape[-1]])
    count = length // 2 + 1 if onesided else length
    matrix = _matrix(used, count, length, complex_in=x.shape[-1] == 2, inverse=inverse)
    made = arithmetic.matmul(b, rows, b.const(matrix))
    wide = layout_moves.reshape(b, made, [*turned.shape[:-2], count, 2])
    return layout_moves.transpose(b, wide, [order.index(i) for i in range(rank)])


def _matrix(used: int, count: int, length: int, *, complex_in: bool, inverse: bool) -> Array:
    """Return [used · parts, count · 2], real and imaginary parts interleaved."""
    angle = 2 * np.pi * np.outer(np.arange(used), np.arange(count)) / length * (1 if inverse else -1)
    scale = 1 / length if inverse else 1.0
    cos, sin = np.cos(angle) * scale, np.sin(angle) * scale
    real = np.stack([cos, sin], -1)
    if not complex_in:
        return np.asarray(real.reshape(used, count * 2), np.float32)
    imaginary = np.stack([-sin, cos], -1)
    return np.asarray(np.stack([real, imaginary], 1).reshape(used * 2, count * 2), np.float32)


def _real_inverse(b: Builder, x: Tensor, axis: int, length: int) -> Tensor:
    """Return the real signal [..., 1] of a one-sided spectrum."""
    half = min(length // 2 + 1, x.shape[axis])
    order = [*(i for i in range(x.rank - 1) if i != axis), axis, x.rank - 1]
    turned = layout_moves.transpose(b, layout_moves.take(b, x, axis, 0, half), order)
    rows = layout_moves.reshape(b, turned, [layout_moves.size(turned.shape[:-2]), half * 2])
    angle = 2 * np.pi * np.outer(np.arange(half), np.arange(length)) / length
    # Each frequency but the first (and the middle one of an even length) stands for two.
    weight = np.full(half, 2.0)
    weight[0] = 1.0
    if length % 2 == 0 and half == length // 2 + 1:
        weight[-1] = 1.0
    pair = np.stack([np.cos(angle), -np.sin(angle)], 1) * weight[:, None, None] / length
    made = arithmetic.matmul(b, rows, b.const(pair.reshape(half * 2, length).astype(np.float32)))
    wide = layout_moves.reshape(b, made, [*turned.shape[:-2], length, 1])
    return layout_moves.transpose(b, wide, [order.index(i) for i in range(x.rank)])


def stft(b: Builder, n: Node) -> Sequence[Tensor]:
    """STFT: frames are gathered, weighted by the window, transformed. The step may be known at run time only."""
    x, window = n.input(0), n.optional(2)
    if x.dtype != "float32":
        b.lacks(f"BATCH_MATMUL on {x.dtype}")
    frame = n.array(3)
    onesided = bool(n.get("onesided", 1))
    if frame is not None:
        length = int(frame.reshape(()))
    elif window is not None:
        length = window.shape[0]
    else:
        wanted = promised(b, n, "a frame length")
        if onesided:
            b.not_compiled("STFT with a frame length known only at run time")
        length = wanted[2]
    step = n.array(1)
    if step is not None:
        hop = int(step.reshape(()))
        count = 1 + (x.shape[1] - length) // hop
        places = b.const((np.arange(count)[:, None] * hop + np.arange(length)).astype(np.int32))
    else:
        count = promised(b, n, "a step")[1]
        starts = arithmetic.mul(
            b, b.const(np.arange(count, dtype=np.int32).reshape(-1, 1)), layout_moves.cast(b, n.input(1), "int32")
        )
        places = arithmetic.add(b, starts, b.const(np.arange(length, dtype=np.int32)))
    frames = layout_moves.gather(b, x, places, 1)
    if window is not None:
        frames = arithmetic.mul(b, frames, layout_moves.reshape(b, window, [length, 1]))
    return [transformed(b, frames, 2, length, inverse=False, onesided=onesided)]


LOWERINGS: dict[str, Lowering] = {"DFT": dft, "STFT": stft}
