"""Conv and ConvTranspose in one to three dimensions. Source: the ONNX operator pages; kernels: TFLite's layout is channel-last.

Data comes as [N, C, ...], kernels want [N, ..., C]: a transpose goes before and after, and the layout pass takes out those that
meet. Padding that is not TensorFlow's SAME is a PAD of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from edgefleet_converters.tflite import arithmetic, layout_moves
from edgefleet_converters.tflite.builder import Builder
from edgefleet_converters.tflite.ir import Tensor
from edgefleet_converters.tflite.lower.activations import in_float32
from edgefleet_converters.tflite.node import Lowering, Node

SAME, VALID = 0, 1


@dataclass(frozen=True)
class Window:
    """How a kernel walks: one entry for each spatial axis. after: padding at the end."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]

    def reach(self, axis: int) -> int:
        """Return how many entries the kernel spans."""
        return (self.kernel[axis] - 1) * self.dilations[axis] + 1

    def places(self, axis: int, length: int) -> int:
        """Return the number of positions of the kernel on a padded axis."""
        room = length + self.before[axis] + self.after[axis] - self.reach(axis)
        return room // self.strides[axis] + 1

    def lifted(self) -> "Window":
        """Return the two-dimensional form of a one-dimensional window: a first axis of one."""
        return Window((1, *self.kernel), (1, *self.strides), (1, *self.dilations), (0, *self.before), (0, *self.after))


def window_of(n: Node, kernel: Sequence[int], lengths: Sequence[int]) -> Window:
    """Return the window that a node's attributes describe. lengths: of the spatial axes, for auto_pad."""
    rank = len(kernel)
    strides = tuple(int(s) for s in n.get("strides", [1] * rank))
    dilations = tuple(int(d) if k > 1 else 1 for d, k in zip(n.get("dilations", [1] * rank), kernel, strict=True))
    mode = n.text("auto_pad", "NOTSET")
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        total = []
        for k, s, d, length in zip(kernel, strides, dilations, lengths, strict=True):
            total.append(max(0, (-(-length // s) - 1) * s + (k - 1) * d + 1 - length))
        small, large = tuple(t // 2 for t in total), tuple(t - t // 2 for t in total)
        before, after = (small, large) if mode == "SAME_UPPER" else (large, small)
    elif mode == "VALID":
        before = after = (0,) * rank
    else:
        pads = [int(p) for p in n.get("pads", [0] * (2 * rank))]
        before, after = tuple(pads[:rank]), tuple(pads[rank:])
    return Window(tuple(int(k) for k in kernel), strides, dilations, before, after)


def channel_last(b: Builder, x: Tensor) -> Tensor:
    """Return [N, C, ...] as [N, ..., C]."""
    return layout_moves.transpose(b, x, [0, *range(2, x.rank), 1])


def channel_first(b: Builder, x: Tensor) -> Tensor:
    """Return [N, ..., C] as [N, C, ...]."""
    return layout_moves.transpose(b, x, [0, x.rank - 1, *range(1, x.rank - 1)])


def conv(b: Builder, n: Node) -> Sequence[Tensor]:
    """Conv with groups, strides, dilations and any padding, in one to three dimensions."""
    x, weight = in_float32(b, n.input(0)), in_float32(b, n.input(1))
    bias = in_float32(b, n.input(2)) if n.given(2) else b.const(np.zeros(weight.shape[0], np.float32))
    if x.dtype != "float32":
        b.lacks(f"CONV_2D on {x.dtype}")
    window = window_of(n, weight.shape[2:], x.shape[2:])
    made = convolved(b, x, weight, bias, window, int(n.get("group", 1)))
    return [layout_moves.cast(b, made, n.input(0).dtype)]


def convolved(b: Builder, x: Tensor, weight: Tensor, bias: Tensor, window: Window, group: int) -> Tensor:
    """Return a float32 convolution of [N, C, ...] with [M, C/group, ...]."""
    if x.rank == 3:
        made = convolved(
            b, layout_moves.reshape(b, x, [*x.shape[:2], 1, x.shape[2]]),
            layout_moves.reshape(b, weight, [*weight.shape[:2], 1, weight.shape[2]]), bias, window.lifted(), group,
        )  # fmt: skip
        return layout_moves.reshape(b, made, [*made.shape[:2], made.shape[3]])
    if x.rank not in (4, 5):
        b.lacks(f"a convolution in {x.rank - 2} dimensions")
    if x.rank == 5 and set(window.dilations) != {1}:
        # The dilated 3D kernel of tflite-runtime 2.14 reads memory that nobody wrote; zeros between the weights say the same.
        for axis, step in enumerate(window.dilations):
            weight = _spread(b, weight, axis + 2, step)
        window = replace(window, kernel=weight.shape[2:], dilations=(1, 1, 1))
    shape = [window.places(i, length) for i, length in enumerate(x.shape[2:])]
    data, padding = _padded(b, channel_last(b, x), window, shape)
    channels = x.shape[1]
    depthwise = group == channels and x.rank == 4 and group > 1
    if depthwise:
        return channel_first(b, _depthwise(b, data, weight, bias, window, padding, shape))
    each, many = channels // group, weight.shape[0] // group
    parts = []
    for i in range(group):
        part = layout_moves.take(b, data, data.rank - 1, i * each, each)
        kernel, start = layout_moves.take(b, weight, 0, i * many, many), layout_moves.take(b, bias, 0, i * many, many)
        parts.append(_dense_window(b, part, kernel, start, window, padding, shape))
    return channel_first(b, layout_moves.concat(b, parts, data.rank - 1))


def _padded(b: Builder, data: Tensor, window: Window, shape: Sequence[int]) -> tuple[Tensor, int]:
    """Return channel-last data and TensorFlow's padding mode for it; what neither mode does is padded here."""
    if not any(window.before) and not any(window.after):
        return data, VALID
    same = True
    for i, length in enumerate(data.shape[1:-1]):
        total = max(0, (-(-length // window.strides[i]) - 1) * window.strides[i] + window.reach(i) - length)
        pads = (total // 2, total - total // 2)
        same = same and (window.before[i], window.after[i]) == pads and shape[i] == -(-length // window.strides[i])
    if same:
        return data, SAME
    return layout_moves.pad(b, data, [0, *window.before, 0], [0, *window.after, 0]), VALID


def _depthwise(
    b: Builder, data: Tensor, weight: Tensor, bias: Tensor, window: Window, padding: int, shape: Sequence[int]
) -> Tensor:
    kernel = layout_moves.reshape(
        b, layout_moves.transpose(b, weight, [2, 3, 1, 0]), [1, *window.kernel, weight.shape[0]]
    )
    return b.emit(
        "DEPTHWISE_CONV_2D", [data, kernel, bias], "float32", [data.shape[0], *shape, weight.shape[0]], padding=padding,
        stride_h=window.strides[0], stride_w=window.strides[1], depth_multiplier=weight.shape[0] // data.shape[3],
        fused_activation_function=0, dilation_h_factor=window.dilations[0], dilation_w_factor=window.dilations[1],
    )  # fmt: skip


def _dense_window(
    b: Builder, data: Tensor, weight: Tensor, bias: Tensor, window: Window, padding: int, shape: Sequence[int]
) -> Tensor:
    result = [data.shape[0], *shape, weight.shape[0]]
    if data.rank == 5:
        return b.emit(
            "CONV_3D", [data, layout_moves.transpose(b, weight, [2, 3, 4, 1, 0]), bias], "float32", result, padding=padding,
            stride_d=window.strides[0], stride_h=window.strides[1], stride_w=window.strides[2],
            fused_activation_function=0,
        )  # fmt: skip
    return b.emit(
        "CONV_2D", [data, layout_moves.transpose(b, weight, [0, 2, 3, 1]), bias], "float32", result, padding=padding,
        stride_h=window.strides[0], stride_w=window.strides[1], fused_activation_function=0,
        dilation_h_factor=window.dilations[0], dilation_w_factor=window.dilations[1],
    )  # fmt: skip


def conv_transpose(b: Builder, n: Node) -> Sequence[Tensor]:
    """ConvTranspose: the whole result is made, then cut or extended as pads, output_padding or output_shape say."""
    x, weight = in_float32(b, n.input(0)), in_float32(b, n.input(1))
    if x.dtype != "float32":
        b.lacks(f"TRANSPOSE_CONV on {x.dtype}")
    group = int(n.get("group", 1))
    rank = x.rank - 2
    window = _transposed_window(n, weight.shape[2:], x.shape[2:])
    extra = [int(v) for v in n.get("output_padding", [0] * rank)]
    for axis in range(rank):
        weight = _spread(b, weight, axis + 2, window.dilations[axis])
    each, many = x.shape[1] // group, weight.shape[1]
    parts = []
    for i in range(group):
        part, kernel = layout_moves.take(b, x, 1, i * each, each), layout_moves.take(b, weight, 0, i * each, each)
        parts.append(_whole(b, part, kernel, window.strides))
    made = layout_moves.concat(b, parts, 1)
    after = [e - p for e, p in zip(extra, window.after, strict=True)]
    made = layout_moves.pad(b, made, [0, 0, *(-p for p in window.before)], [0, 0, *after])
    if n.given(2):
        made = arithmetic.add(
            b, made, layout_moves.reshape(b, in_float32(b, n.input(2)), [1, many * group, *[1] * rank])
        )
    return [layout_moves.cast(b, made, n.input(0).dtype)]


def _transposed_window(n: Node, kernel: Sequence[int], lengths: Sequence[int]) -> Window:
    rank = len(kernel)
    strides = tuple(int(s) for s in n.get("strides", [1] * rank))
    dilations = tuple(int(d) for d in n.get("dilations", [1] * rank))
    extra = [int(v) for v in n.get("output_padding", [0] * rank)]
    mode = n.text("auto_pad", "NOTSET")
    wanted = n.get("output_shape")
    if wanted is None and mode in ("SAME_UPPER", "SAME_LOWER"):
        wanted = [length * s for length, s in zip(lengths, strides, strict=True)]
    if wanted is None:
        pads = [int(p) for p in n.get("pads", [0] * (2 * rank))] if mode == "NOTSET" else [0] * (2 * rank)
        return Window(tuple(kernel), strides, dilations, tuple(pads[:rank]), tuple(pads[rank:]))
    before, after = [], []
    for i, size in enumerate(list(wanted)[-rank:]):
        total = strides[i] * (lengths[i] - 1) + extra[i] + (kernel[i] - 1) * dilations[i] + 1 - int(size)
        half = total // 2
        before.append(half if mode == "SAME_UPPER" else total - half)
        after.append(total - before[-1])
    return Window(tuple(kernel), strides, dilations, tuple(before), tuple(after))


def _spread(b: Builder, x: Tensor, axis: int, step: int) -> Tensor:
    """Put step-1 zeros between the entries of an axis."""
    if step == 1:
        return x
    length = x.shape[axis]
    apart = layout_moves.reshape(
        b, x, [layout_moves.size(x.shape[:axis]), length, 1, layout_moves.size(x.shape[axis + 1 :])]
    )
    wide = layout_moves.pad(b, apart, [0] * 4, [0, 0, step - 1, 0])
    spread = [*x.shape[:axis], length * step, *x.shape[axis + 1 :]]
    return layout_moves.take(b, layout_moves.reshape(b, wide, spread), axis, 0, (length - 1) * step + 1)


def _whole(b: Builder, x: Tensor, weight: Tensor, strides: Sequence[int]) -> Tensor:
    """Return the uncut transposed convolution of [N, C, ...] with [C, M, ...]."""
    if x.rank == 3:
        made = _whole(
            b, layout_moves.reshape(b, x, [*x.shape[:2], 1, x.shape[2]]),
            layout_moves.reshape(b, weight, [*weight.shape[:2], 1, weight.shape[2]]), [1, *strides],
        )  # fmt: skip
        return layout_moves.reshape(b, made, [*made.shape[:2], made.shape[3]])
    if x.rank not in (4, 5):
        b.lacks(f"a transposed convolution in {x.rank - 2} dimensions")
    sizes = [(length - 1) * s + k for length, s, k in zip(x.shape[2:], strides, weight.shape[2:], strict=True)]
    shape = [x.shape[0], *sizes, weight.shape[1]]
    data = channel_last(b, x)
    if x.rank == 5:
        made = b.emit(
            "CONV_3D_TRANSPOSE", [b.ints(shape), layout_moves.transpose(b, weight, [2, 3, 4, 1, 0]), data], "float32", shape,
            padding=VALID, stride_d=strides[0], stride_h=strides[1], stride_w=strides[2], fused_activation_function=0,
        )  # fmt: skip
    else:
        made = b.emit(
            "TRANSPOSE_CONV", [b.ints(shape), layout_moves.transpose(b, weight, [1, 2, 3, 0]), data], "float32", shape,
            padding=VALID, stride_h=strides[0], stride_w=strides[1], fused_activation_function=0,
        )  # fmt: skip
    return channel_first(b, made)


LOWERINGS: dict[str, Lowering] = {"Conv": conv, "ConvTranspose": conv_transpose}
