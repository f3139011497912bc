"""Resize, Upsample and GridSample. Source: the ONNX operator pages (coordinates, modes, cubic formula of Keys).

A resize is one matrix for each axis: row = the weights of one output place. Constant scales make constant matrices; scales that
are known only at run time make the same matrices on the device, from the same formulas.
"""

from collections.abc import Sequence

import numpy as np

from edgefleet_converters.tflite import arithmetic, layout_moves
from edgefleet_converters.tflite.builder import Builder
from edgefleet_converters.tflite.ir import Array, Tensor
from edgefleet_converters.tflite.lower.shapes import promised
from edgefleet_converters.tflite.node import Lowering, Node


def resize(b: Builder, n: Node) -> Sequence[Tensor]:
    """Resize by scales or sizes, all coordinate modes, nearest, linear and cubic, with antialias."""
    x = n.input(0)
    if x.dtype not in ("float32", "float16", "int8", "uint8", "int32"):
        b.lacks(f"BATCH_MATMUL on {x.dtype}")
    first = 1 if n.opset >= 11 else 0
    axes = [int(a) % x.rank for a in n.get("axes", range(x.rank))]
    sizes, scales = n.array(first + 2), n.array(first + 1)
    by_size = n.given(first + 2) and n.input(first + 2).shape != (0,)
    shape = list(x.shape)
    factors: list[float] | None
    if by_size and sizes is not None:
        shape, factors = _by_sizes(n, x.shape, axes, [int(s) for s in sizes])
    elif not by_size and scales is not None and scales.size:
        factors = [float(s) for s in scales]
        for axis, factor in zip(axes, factors, strict=True):
            shape[axis] = int(np.floor(x.shape[axis] * np.float32(factor)))
    else:
        shape = list(promised(b, n, "sizes"))
        factors = [shape[a] / x.shape[a] for a in axes] if by_size else None
    cropping = n.opset >= 11 and n.text("coordinate_transformation_mode", "") == "tf_crop_and_resize"
    region = n.array(1) if cropping else None
    policy = n.text("keep_aspect_ratio_policy", "stretch")
    if by_size and sizes is None and policy != "stretch":
        return [
            _at_run_time(b, n, x, shape, axes, _kept_ratio(b, n.input(first + 2), [x.shape[a] for a in axes], policy))
        ]
    if factors is None or (cropping and region is None):
        given = b.const(np.array(factors, np.float32)) if factors is not None else n.input(first + 1)
        return [_at_run_time(b, n, x, shape, axes, given)]
    made = x
    for i, axis in enumerate(axes):
        if shape[axis] == x.shape[axis] and factors[i] == 1.0 and region is None:
            continue
        crop = (float(region[i]), float(region[i + len(axes)])) if region is not None else (0.0, 1.0)
        matrix, outside = axis_matrix(n, x.shape[axis], shape[axis], factors[i], crop)
        made = applied(b, made, matrix, axis)
        if outside.any():
            mask = b.const(outside.reshape([-1 if j == axis else 1 for j in range(x.rank)]))
            made = layout_moves.select(
                b, mask, arithmetic.scalar(b, float(n.get("extrapolation_value", 0.0)), made), made
            )
    return [made]


def _by_sizes(n: Node, old: Sequence[int], axes: Sequence[int], sizes: Sequence[int]) -> tuple[list[int], list[float]]:
    shape = list(old)
    factors = [size / old[axis] for axis, size in zip(axes, sizes, strict=True)]
    policy = n.text("keep_aspect_ratio_policy", "stretch")
    if policy != "stretch":
        one = min(factors) if policy == "not_larger" else max(factors)
        factors = [one] * len(axes)
        # Halves are rounded up, as the standard says.
        sizes = [int(np.floor(one * old[axis] + 0.5)) for axis in axes]
    for axis, size in zip(axes, sizes, strict=True):
        shape[axis] = size
    return shape, factors


def _kept_ratio(b: Builder, sizes: Tensor, old: Sequence[int], policy: str) -> Tensor:
    """Return one scale for all axes, of sizes that are known only at run time."""
    each = arithmetic.div(b, layout_moves.cast(b, sizes, "float32"), b.const(np.array(old, np.float32)))
    one = arithmetic.reduce(b, "REDUCE_MIN" if policy == "not_larger" else "REDUCE_MAX", each, [0], keep=True)
    return layout_moves.broadcast_to(b, one, [len(old)])


def applied(b: Builder, x: Tensor, matrix: Array, axis: int) -> Tensor:
    """Return the matrix [out, in] applied to one axis; a matrix that only picks is a gather."""
    ones = matrix == 1.0
    if (ones.sum(1) == 1).all() and (matrix[~ones] == 0).all():
        return layout_moves.gather(b, x, b.const(ones.argmax(1).astype(np.int32)), axis)
    return weighted(b, x, b.const(matrix.astype(np.float32)), axis)


def weighted(b: Builder, x: Tensor, matrix: Tensor, axis: int) -> Tensor:
    """Return the weights [out, in] applied to one axis of float numbers."""
    if x.dtype not in ("float32", "float16"):
        b.not_compiled(f"an interpolation of {x.dtype}")
    rows = layout_moves.reshape(
        b,
        layout_moves.cast(b, x, "float32"),
        [layout_moves.size(x.shape[:axis]), x.shape[axis], layout_moves.size(x.shape[axis + 1 :])],
    )
    shape = [*x.shape[:axis], matrix.shape[0], *x.shape[axis + 1 :]]
    if rows.shape[2] == 1:
        made = arithmetic.matmul(
            b, layout_moves.reshape(b, rows, rows.shape[:2]), layout_moves.transpose(b, matrix, [1, 0])
        )
    else:
        made = arithmetic.matmul(b, matrix, rows)
    return layout_moves.cast(b, layout_moves.reshape(b, made, shape), x.dtype)


def axis_matrix(n: Node, old: int, new: int, factor: float, crop: tuple[float, float]) -> tuple[Array, Array]:
    """Return the weights [new, old] of one axis, and which output places lie outside the input."""
    places = source_places(n, old, new, factor, crop)
    outside = np.zeros(new, bool)
    if n.text("coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize":
        outside = (places < 0) | (places > old - 1)
    mode = n.text("mode", "nearest")
    if mode == "nearest":
        matrix = np.zeros((new, old))
        matrix[np.arange(new), np.clip(_rounded(places, n.text("nearest_mode", "round_prefer_floor")), 0, old - 1)] = (
            1.0
        )
        return matrix, outside
    scale = min(1.0, factor) if n.get("antialias", 0) else 1.0
    cubic = mode == "cubic"
    return kernel_matrix(
        places, old, scale, cubic=cubic, a=float(n.get("cubic_coeff_a", -0.75)), exclude=bool(n.get("exclude_outside", 0))
    ), outside  # fmt: skip


def source_places(n: Node, old: int, new: int, factor: float, crop: tuple[float, float]) -> Array:
    """Return where in the input each output place lies, float64 [new]."""
    mode = n.text("coordinate_transformation_mode", "half_pixel" if n.opset >= 11 else "asymmetric")
    x = np.arange(new, dtype=np.float64)
    if mode == "asymmetric":
        return x / factor
    if mode == "align_corners":
        return x * (old - 1) / (new - 1) if new > 1 else np.zeros(new)
    if mode == "tf_crop_and_resize":
        start, end = crop
        if new > 1:
            return start * (old - 1) + x * (end - start) * (old - 1) / (new - 1)
        return np.full(new, 0.5 * (start + end) * (old - 1))
    if mode == "pytorch_half_pixel" and new == 1:
        return np.zeros(new)
    if mode == "half_pixel_symmetric":
        exact = factor * old
        offset = old / 2 * (1 - new / exact)
        return offset + (x + 0.5) / factor - 0.5
    return (x + 0.5) / factor - 0.5


def _rounded(places: Array, mode: str) -> Array:
    if mode == "round_prefer_ceil":
        rounded = np.floor(places + 0.5)
    elif mode == "floor":
        rounded = np.floor(places)
    elif mode == "ceil":
        rounded = np.ceil(places)
    else:
        rounded = np.ceil(places - 0.5)
    return np.asarray(rounded, np.int64)


def kernel_matrix(places: Array, old: int, scale: float, *, cubic: bool, a: float, exclude: bool) -> Array:
    """Return linear or cubic weights. scale below 1: the kernel is widened by 1/scale (antialias)."""
    reach = (2 if cubic else 1) / scale
    matrix = np.zeros((len(places), old))
    for row, place in enumerate(places):
        near = np.arange(int(np.floor(place - reach)), int(np.ceil(place + reach)) + 1)
        weights = _cubic((near - place) * scale, a) if cubic else np.maximum(0.0, 1 - np.abs((near - place) * scale))
        if exclude:
            weights = np.where((near >= 0) & (near < old), weights, 0.0)
        if exclude or scale < 1:
            weights = weights / weights.sum()
        np.add.at(matrix[row], np.clip(near, 0, old - 1), weights)
    return matrix


def _cubic(distance: Array, a: float) -> Array:
    d = np.abs(distance)
    inner = ((a + 2) * d - (a + 3)) * d * d + 1
    outer = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return np.asarray(np.where(d <= 1, inner, np.where(d < 2, outer, 0.0)))


def _at_run_time(b: Builder, n: Node, x: Tensor, shape: Sequence[int], axes: Sequence[int], scales: Tensor) -> Tensor:
    """Resize by scales (or a region) that are known only at run time, to the size that the model declares."""
    mode = n.text("coordinate_transformation_mode", "half_pixel" if n.opset >= 11 else "asymmetric")
    made = x
    for i, axis in enumerate(axes):
        old, new = x.shape[axis], shape[axis]
        factor = layout_moves.reshape(b, layout_moves.take(b, scales, 0, i, 1), [])
        if mode == "tf_crop_and_resize":
            region = n.input(1)
            start, end = (layout_moves.index(b, region, 0, k) for k in (i, i + len(axes)))
            places = _cropped_places(
                b, layout_moves.cast(b, start, "float32"), layout_moves.cast(b, end, "float32"), old, new
            )
        else:
            places = _places_at_run_time(b, mode, old, new, factor)
        if n.text("mode", "nearest") == "nearest":
            chosen = arithmetic.clamp(b, _rounded_at_run_time(b, places, n), 0.0, float(old - 1))
            made = layout_moves.gather(b, made, layout_moves.cast(b, chosen, "int32"), axis)
        else:
            made = weighted(b, made, _weights_at_run_time(b, n, places, old, new, factor), axis)
        if mode == "tf_crop_and_resize":
            below = arithmetic.binary(b, "LESS", places, b.const(np.float32(0)))
            outside = arithmetic.binary(
                b, "LOGICAL_OR", below, arithmetic.binary(b, "GREATER", places, b.const(np.float32(old - 1)))
            )
            mask = layout_moves.reshape(b, outside, [new if k == axis else 1 for k in range(x.rank)])
            made = layout_moves.select(
                b, mask, arithmetic.scalar(b, float(n.get("extrapolation_value", 0.0)), made), made
            )
    return made


def _cropped_places(b: Builder, start: Tensor, end: Tensor, old: int, new: int) -> Tensor:
    if new == 1:
        return layout_moves.reshape(b, arithmetic.mul(b, arithmetic.add(b, start, end), 0.5 * (old - 1)), [1])
    step = arithmetic.mul(b, arithmetic.sub(b, end, start), (old - 1) / (new - 1))
    line = arithmetic.mul(b, b.const(np.arange(new, dtype=np.float32)), step)
    return arithmetic.add(b, line, arithmetic.mul(b, start, float(old - 1)))


def _places_at_run_time(b: Builder, mode: str, old: int, new: int, factor: Tensor) -> Tensor:
    x = b.const(np.arange(new, dtype=np.float32))
    if mode == "asymmetric":
        return arithmetic.div(b, x, factor)
    if mode == "align_corners":
        # The standard uses the exact, unrounded output length here, which the scale gives.
        exact = arithmetic.sub(b, arithmetic.mul(b, factor, float(old)), 1.0)
        single = arithmetic.binary(b, "LESS_EQUAL", exact, b.const(np.float32(0)))
        return layout_moves.select(
            b, single, b.const(np.float32(0)), arithmetic.div(b, arithmetic.mul(b, x, float(old - 1)), exact)
        )
    if mode == "pytorch_half_pixel" and new == 1:
        return b.const(np.zeros(new, np.float32))
    half = arithmetic.sub(b, arithmetic.div(b, arithmetic.add(b, x, 0.5), factor), 0.5)
    if mode == "half_pixel_symmetric":
        share = arithmetic.div(b, float(new), arithmetic.mul(b, factor, float(old)))
        return arithmetic.add(b, half, arithmetic.mul(b, arithmetic.sub(b, 1.0, share), old / 2))
    return half


def _rounded_at_run_time(b: Builder, places: Tensor, n: Node) -> Tensor:
    mode = n.text("nearest_mode", "round_prefer_floor" if n.opset >= 11 else "floor")
    if mode == "round_prefer_ceil":
        return arithmetic.unary(b, "FLOOR", arithmetic.add(b, places, 0.5))
    if mode == "floor":
        return arithmetic.unary(b, "FLOOR", places)
    if mode == "ceil":
        return arithmetic.unary(b, "CEIL", places)
    return arithmetic.unary(b, "CEIL", arithmetic.sub(b, places, 0.5))


def _weights_at_run_time(b: Builder, n: Node, places: Tensor, old: int, new: int, factor: Tensor) -> Tensor:
    """Return the same weights as `kernel_matrix`, computed on the device."""
    cubic, smooth = n.text("mode", "nearest") == "cubic", bool(n.get("antialias", 0))
    # A widened kernel reaches 1/scale further, and the declared length says that 1/scale is at most old/new.
    margin = (2 if cubic else 1) * (int(np.ceil(old / new)) + 1 if smooth else 1)
    # Places further out than the margin read only the edge; clamping them keeps their weights inside the matrix.
    inside = arithmetic.clamp(b, places, -1.0, float(old)) if not cubic else places
    line = np.arange(-margin, old + margin, dtype=np.float32)[None, :]
    distance = arithmetic.unary(
        b, "ABS", arithmetic.sub(b, b.const(line), layout_moves.reshape(b, inside, [places.shape[0], 1]))
    )
    if smooth:
        distance = arithmetic.mul(b, distance, arithmetic.clamp(b, factor, None, 1.0))
    if cubic:
        weights = _cubic_at_run_time(b, distance, float(n.get("cubic_coeff_a", -0.75)))
    else:
        weights = arithmetic.clamp(b, arithmetic.sub(b, 1.0, distance), 0.0, None)
    if n.get("exclude_outside", 0):
        weights = arithmetic.mul(b, weights, b.const(((line >= 0) & (line < old)).astype(np.float32)))
    if smooth or n.get("exclude_outside", 0):
        weights = arithmetic.div(b, weights, arithmetic.reduce(b, "SUM", weights, [1], keep=True))
    folding = np.zeros((line.size, old), np.float32)
    folding[np.arange(line.size), np.clip(line[0].astype(int), 0, old - 1)] = 1
    return arithmetic.matmul(b, weights, b.const(folding))


def _cubic_at_run_time(b: Builder, d: Tensor, a: float) -> Tensor:
    square = arithmetic.mul(b, d, d)
    inner = arithmetic.add(b, arithmetic.mul(b, square, arithmetic.sub(b, arithmetic.mul(b, d, a + 2), a + 3)), 1.0)
    line = arithmetic.add(b, arithmetic.mul(b, arithmetic.sub(b, arithmetic.mul(b, d, a), 5 * a), d), 8 * a)
    outer = arithmetic.sub(b, arithmetic.mul(b, line, d), 4 * a)
    far = layout_moves.select(
        b, arithmetic.binary(b, "LESS", d, arithmetic.scalar(b, 2.0, d)), outer, arithmetic.scalar(b, 0.0, d)
    )
    return layout_moves.select(b, arithmetic.binary(b, "LESS_EQUAL", d, arithmetic.scalar(b, 1.0, d)), inner, far)


def affine_grid(b: Builder, n: Node) -> Sequence[Tensor]:
    """AffineGrid: the product of theta with the places of an output grid, innermost axis first."""
    theta, size = n.input(0), n.array(1)
    lengths = [int(v) for v in size[2:]] if size is not None else list(promised(b, n, "a size")[1:-1])
    corners = bool(n.get("align_corners", 0))
    lines = [np.linspace(-1, 1, v) if corners else (2 * np.arange(v) + 1) / v - 1 for v in lengths]
    lines = [np.zeros(1) - (1 if corners else 0) if v == 1 else line for v, line in zip(lengths, lines, strict=True)]
    grids = np.meshgrid(*lines, indexing="ij")
    places = np.stack([*grids[::-1], np.ones_like(grids[0])], -1).reshape(1, -1, len(lengths) + 1)
    made = arithmetic.matmul(b, b.const(places.astype(np.float32)), layout_moves.transpose(b, theta, [0, 2, 1]))
    return [layout_moves.reshape(b, made, [theta.shape[0], *lengths, len(lengths)])]


def upsample(b: Builder, n: Node) -> Sequence[Tensor]:
    """Upsample: a resize of opset 10 and before, asymmetric, nearest by floor."""
    scales = np.array(n.get("scales"), np.float32) if "scales" in n.attributes else n.array(1)
    mode = {"nearest": "nearest", "linear": "linear", "bilinear": "linear"}[n.text("mode", "nearest")]
    attributes = {"mode": mode.encode(), "coordinate_transformation_mode": b"asymmetric", "nearest_mode": b"floor"}
    given = b.const(scales) if scales is not None else n.input(1)
    view = Node("Resize", (n.input(0), None, given), attributes, 13, n.wanted, n.declared, n.trace)
    return resize(b, view)


LOWERINGS: dict[str, Lowering] = {"AffineGrid": affine_grid, "Resize": resize, "Upsample": upsample}
