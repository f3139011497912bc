"""Image operations in numpy alone, so that converter and device compute the same numbers; Pillow only decodes files.

1. An image is [height, width, channels] with 1 or 3 channels (RGB order).
2. Sampling points are pixel centres: output i reads at (i + 0.5) × in / out - 0.5, edges are clamped (the convention of TF 2
   and OpenCV). No smoothing before shrinking; use `area` when shrinking by much.
"""

import io
import warnings
from typing import Literal

import numpy as np
import numpy.typing as npt

from edgefleet_protocol.errors import EdgefleetError
from edgefleet_runtime.port import Array

MAX_PIXELS = 64 * 1024 * 1024

ResizeMethod = Literal["nearest", "bilinear", "area"]
ColourMode = Literal["rgb", "grayscale"]

# ITU-R BT.601 luma, as in Pillow's mode "L"
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)


class ImageSupportMissingError(EdgefleetError):
    """Pillow is not installed, so image files cannot be decoded."""

    code = "preprocess.no_image_support"


class BadImageError(EdgefleetError):
    """The bytes are not an image that can be decoded."""

    code = "preprocess.bad_image"


def decode_image(data: bytes, mode: ColourMode) -> npt.NDArray[np.uint8]:
    """Return a JPEG, PNG, BMP, GIF or WebP file as uint8 [height, width, 1 or 3]. The EXIF rotation is applied.

    Raises ImageSupportMissingError, BadImageError.
    """
    try:
        from PIL import Image, ImageOps
    except ImportError as e:
        raise ImageSupportMissingError(
            "this device cannot decode image files: Pillow is not installed",
            next_step="install edgefleet-agent[image], or send the pixels as a numpy array (application/octet-stream)",
        ) from e
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=("JPEG", "PNG", "BMP", "GIF", "WEBP")) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise BadImageError(f"the image has {image.width} × {image.height} pixels; at most {MAX_PIXELS}")
                upright = ImageOps.exif_transpose(image)
                pixels = np.asarray(upright.convert("L" if mode == "grayscale" else "RGB"), dtype=np.uint8)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as e:
        raise BadImageError(
            f"the body is not a readable image: {e}", next_step="send a JPEG, PNG, BMP, GIF or WebP file"
        ) from e
    return pixels[:, :, None] if pixels.ndim == 2 else pixels


def to_colour(image: Array, mode: ColourMode) -> Array:
    """Return the image with 1 (grayscale) or 3 (rgb) channels; a 2-D array counts as grayscale. Keeps the dtype."""
    pixels = image[:, :, None] if image.ndim == 2 else image
    if pixels.ndim != 3 or pixels.shape[2] not in {1, 3, 4}:
        raise BadImageError(
            f"an image is [height, width] or [height, width, 1, 3 or 4 channels], got {list(image.shape)}",
            next_step="send the pixels with the channels last",
        )
    if pixels.shape[2] == 4:
        pixels = pixels[:, :, :3]
    if mode == "rgb":
        return pixels if pixels.shape[2] == 3 else np.repeat(pixels, 3, axis=2)
    if pixels.shape[2] == 1:
        return pixels
    luma = pixels.astype(np.float32) @ _LUMA
    if pixels.dtype.kind in "iu":
        luma = np.rint(luma)
    return luma.astype(pixels.dtype)[:, :, None]


def resize(image: Array, width: int, height: int, method: ResizeMethod) -> Array:
    """Return the image in another size. nearest keeps the dtype; bilinear and area give float32."""
    if method == "nearest":
        rows = _nearest(image.shape[0], height)
        columns = _nearest(image.shape[1], width)
        return image[rows][:, columns]
    if image.shape[0] == height and image.shape[1] == width:
        return image.astype(np.float32)
    if method == "bilinear":
        return _bilinear_axis(_bilinear_axis(image.astype(np.float32), height, 0), width, 1)
    return _area_axis(_area_axis(image.astype(np.float32), height, 0), width, 1)


def centre_crop(image: Array, width: int, height: int) -> Array:
    """Return the middle of the image. Raises BadImageError when it is smaller than that."""
    if image.shape[0] < height or image.shape[1] < width:
        raise BadImageError(
            f"the image is {image.shape[1]} × {image.shape[0]}, smaller than the crop of {width} × {height}",
            next_step="send a larger image, or resize before the crop",
        )
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return image[top : top + height, left : left + width]


def pad(image: Array, width: int, height: int, value: float, *, centred: bool) -> Array:
    """Return the image on a canvas of that size filled with `value`. Raises BadImageError when it does not fit."""
    if image.shape[0] > height or image.shape[1] > width:
        raise BadImageError(
            f"the image is {image.shape[1]} × {image.shape[0]}, larger than the canvas of {width} × {height}",
            next_step="resize with keep_aspect before the pad",
        )
    canvas = np.full((height, width, image.shape[2]), value, dtype=image.dtype)
    top = (height - image.shape[0]) // 2 if centred else 0
    left = (width - image.shape[1]) // 2 if centred else 0
    canvas[top : top + image.shape[0], left : left + image.shape[1]] = image
    return canvas


def fit_within(image: Array, width: int, height: int) -> tuple[int, int]:
    """Return the largest (width, height) of the image's proportions inside the box; at least 1 × 1."""
    factor = min(width / image.shape[1], height / image.shape[0])
    return max(1, min(width, round(image.shape[1] * factor))), max(1, min(height, round(image.shape[0] * factor)))


def _nearest(size: int, wanted: int) -> npt.NDArray[np.int64]:
    centres = np.floor((np.arange(wanted) + 0.5) * (size / wanted)).astype(np.int64)
    return np.asarray(np.minimum(centres, size - 1), dtype=np.int64)


def _bilinear_axis(image: Array, wanted: int, axis: int) -> Array:
    size = image.shape[axis]
    if size == wanted:
        return image
    position = np.clip((np.arange(wanted) + 0.5) * (size / wanted) - 0.5, 0, size - 1)
    low = np.floor(position).astype(np.int64)
    high = np.minimum(low + 1, size - 1)
    shape = [1] * image.ndim
    shape[axis] = wanted
    weight = (position - low).astype(np.float32).reshape(shape)
    below, above = np.take(image, low, axis=axis), np.take(image, high, axis=axis)
    return np.asarray(below + (above - below) * weight)


def _area_axis(image: Array, wanted: int, axis: int) -> Array:
    """Return averages over the exact box that each output pixel covers; bilinear where the axis grows."""
    size = image.shape[axis]
    if size <= wanted:
        return _bilinear_axis(image, wanted, axis)
    edges = np.arange(wanted + 1) * (size / wanted)
    moved = np.moveaxis(image, axis, 0).astype(np.float64)
    sums = np.concatenate([np.zeros((1, *moved.shape[1:])), np.cumsum(moved, axis=0)])
    whole = np.minimum(np.floor(edges).astype(np.int64), size - 1)
    part = (edges - whole).reshape(-1, *[1] * (moved.ndim - 1))
    integral = sums[whole] + part * moved[whole]
    boxes = (integral[1:] - integral[:-1]) / (size / wanted)
    return np.moveaxis(boxes, 0, axis).astype(np.float32)
