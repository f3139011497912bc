"""What of a model's input may leave the device, field by field, by the policy in the bundle (`privacy.json`).

1. A field is a column of a table input, or a whole input tensor. What the policy does not name is dropped: nothing is kept by default.
2. Rules of one field run in their order. A rule that cannot be applied to what it gets drops the field: the policy fails closed.
3. Values are the model's own: after preprocessing. A `bin` of a scaled column is in scaled units.
4. `hash` is HMAC-SHA256 with the device's secret salt, cut to 16 hex digits: equal values stay equal on one device, and nobody
   without the salt can try values out.
5. Of a field that the policy drops or hashes by name, no signal is counted either (docs/operate/privacy.md).
6. Columns are distinguished only while the last axis still has one element for each; else the tensor counts as one field of its own.
"""

import hashlib
import hmac
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import msgspec
import numpy as np

from edgefleet_protocol.errors import EdgefleetError
from edgefleet_protocol.manifest import TensorSpec
from edgefleet_runtime.port import Array
from edgefleet_runtime.preprocess import ColumnsInput, Preprocess

PRIVACY_MEMBER = "privacy.json"
HASH_HEX = 16


class PrivacyError(EdgefleetError):
    """The bundle's privacy.json is not valid, or speaks of fields that the model does not have."""

    code = "privacy.bad_declaration"


class _Rule(msgspec.Struct, frozen=True, tag_field="do", forbid_unknown_fields=True):
    """Root of the rules."""


class Keep(_Rule, frozen=True, tag="keep"):
    """As it is."""


class Drop(_Rule, frozen=True, tag="drop"):
    """Not at all."""


class Hash(_Rule, frozen=True, tag="hash"):
    """The salted hash of each value."""


class Bin(_Rule, frozen=True, tag="bin"):
    """The lower edge of the bin of this width that a value lies in."""

    width: float


class Downscale(_Rule, frozen=True, tag="downscale"):
    """An image whose longer side has at most `side` pixels, each the mean of those it stands for."""

    side: int


class Blur(_Rule, frozen=True, tag="blur"):
    """An image whose pixels are means over a square of 2·radius + 1."""

    radius: int


class Crop(_Rule, frozen=True, tag="crop"):
    """The part of an image between these shares (0 … 1) of its width and height."""

    left: float = 0.0
    top: float = 0.0
    right: float = 1.0
    bottom: float = 1.0


Rule = Keep | Drop | Hash | Bin | Downscale | Blur | Crop


class Privacy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A whole privacy.json. outputs: whether the model's answers are kept with a record. low_confidence: an answer whose best score
    is below is worth keeping (0 = never for that reason). subject: whether a prediction log keeps the subject that a caller names, or
    only its keyed hash.
    """

    fields: dict[str, list[Rule]] = {}
    outputs: bool = True
    low_confidence: float = 0.5
    subject: Literal["hash", "keep"] = "hash"
    v: Literal[1] = 1


class Tensor(msgspec.Struct, frozen=True, kw_only=True):
    """An array in a record, row-major, little-endian."""

    dtype: str
    shape: list[int]
    data: bytes


NOTHING = Privacy()
"""The policy of a bundle without one: no input is kept."""


def parse_privacy(data: bytes) -> Privacy:
    """Return the policy. Raises PrivacyError."""
    try:
        policy = msgspec.json.decode(data, type=Privacy)
    except msgspec.MsgspecError as error:
        raise PrivacyError(f"privacy.json is not valid: {error}", next_step="correct it and publish again") from error
    for name, rules in policy.fields.items():
        for rule in rules:
            _check(name, rule)
        if not rules:
            raise PrivacyError(f"privacy.json gives no rule for {name!r}", next_step='say {"do": "drop"} to drop it')
    if not 0.0 <= policy.low_confidence <= 1.0:
        raise PrivacyError("privacy.json: low_confidence must be between 0 and 1", next_step="correct it")
    return policy


def check_against(policy: Privacy, declared: Preprocess, inputs: Sequence[TensorSpec]) -> None:
    """Refuse a policy for fields that the model does not have: a misspelt rule protects nothing. Raises PrivacyError."""
    columns = {c for recipe in declared.inputs if isinstance(recipe, ColumnsInput) for c in recipe.columns}
    known = columns | {spec.name for spec in inputs}
    unknown = sorted(set(policy.fields) - known)
    if unknown:
        raise PrivacyError(
            f"privacy.json speaks of {', '.join(unknown)}, which the model does not take",
            next_step=f"use the names of its inputs and columns: {', '.join(sorted(known))}",
        )


def uncounted(
    policy: Privacy, declared: Preprocess, specs: Sequence[TensorSpec], signals: Iterable[str]
) -> frozenset[str]:
    """Return those of the signals, named `<input>.<word>`, that would say something of a field which the policy drops or hashes by name."""
    recipes = {recipe.name: recipe for recipe in declared.inputs}
    secret = {name for name, rules in policy.fields.items() if any(isinstance(one, Drop | Hash) for one in rules)}
    hidden: set[str] = set()
    for spec in specs:
        recipe = recipes.get(spec.name)
        columns = recipe.columns if isinstance(recipe, ColumnsInput) else []
        apart: dict[str, set[str]] = {}  # of columns named like numbers, a signal may mean two: by name, and by place
        for i, column in enumerate(columns):
            for word in (column, i):
                apart.setdefault(f"{spec.name}.{word}", set()).add(column if column in policy.fields else spec.name)
        for name in signals:
            if name in apart:
                hidden |= {name} if apart[name] & secret else set()
            elif name.startswith(f"{spec.name}.") and not secret.isdisjoint({spec.name, *columns}):
                hidden.add(name)
    return frozenset(hidden)


def apply(
    policy: Privacy,
    declared: Preprocess,
    specs: Sequence[TensorSpec],
    inputs: Mapping[str, Array],
    salt: bytes,
) -> tuple[dict[str, Any], list[str]]:
    """Return the fields that may leave, each a Tensor or a list of values a row, and the names of those that may not."""
    recipes = {recipe.name: recipe for recipe in declared.inputs}
    kept: dict[str, Any] = {}
    dropped: list[str] = []
    for spec in specs:
        array = inputs.get(spec.name)
        if array is None:
            continue
        recipe = recipes.get(spec.name)
        if isinstance(recipe, ColumnsInput) and array.ndim > 0 and array.shape[-1] == len(recipe.columns):
            parts = {c: array[..., i] for i, c in enumerate(recipe.columns)}
            rules = {c: policy.fields.get(c, policy.fields.get(spec.name)) for c in recipe.columns}
        else:
            parts, rules = {spec.name: array}, {spec.name: policy.fields.get(spec.name)}
        for name, part in parts.items():
            value = _through(rules[name], name, part, spec, salt)
            if value is None:
                dropped.append(name)
            else:
                kept[name] = value
    return kept, dropped


def tensor(array: Array) -> Tensor:
    """Return an array as it goes into a record."""
    plain = np.ascontiguousarray(array)
    return Tensor(dtype=plain.dtype.newbyteorder("<").str, shape=list(array.shape), data=plain.tobytes())


def _check(name: str, rule: Rule) -> None:
    wrong = ""
    match rule:
        case Bin(width=width) if not (math.isfinite(width) and width > 0):
            wrong = "bin needs a width above 0"
        case Downscale(side=side) if side < 1:
            wrong = "downscale needs a side of at least one pixel"
        case Blur(radius=radius) if radius < 1:
            wrong = "blur needs a radius of at least one pixel"
        case Crop() if not (0 <= rule.left < rule.right <= 1 and 0 <= rule.top < rule.bottom <= 1):
            wrong = "crop needs 0 <= left < right <= 1 and 0 <= top < bottom <= 1"
        case _:
            return
    raise PrivacyError(f"privacy.json, field {name!r}: {wrong}", next_step="correct it and publish again")


def _through(rules: list[Rule] | None, name: str, array: Array, spec: TensorSpec, salt: bytes) -> Any:
    """Return a field after its rules; None when it may not leave."""
    if rules is None:
        return None
    for number, rule in enumerate(rules, 1):
        match rule:
            case Keep():
                continue
            case Drop():
                return None
            case Hash():
                # nothing else can be applied to a hash (rule 2)
                return _hashes(name, array, salt) if all(isinstance(r, Keep) for r in rules[number:]) else None
            case Bin(width=width):
                if array.dtype.kind not in "iuf":
                    return None
                array = (np.floor(array.astype(np.float64) / width) * width).astype(np.float32)
            case _:
                changed = _image(rule, array, spec)
                if changed is None:
                    return None
                array = changed
    return tensor(array) if array.dtype.kind in "biuf" else None


def _hashes(name: str, array: Array, salt: bytes) -> list[str]:
    return [
        hmac.digest(salt, f"{name}\0{value!r}".encode(), hashlib.sha256).hex()[:HASH_HEX]
        for value in array.ravel().tolist()
    ]


def _image(rule: Rule, array: Array, spec: TensorSpec) -> Array | None:
    """Return an image changed by a rule, in its own layout and type; None when it is no image."""
    axes = height_width(array.shape, spec)
    if axes is None or array.dtype.kind not in "iuf":
        return None
    moved = np.moveaxis(array, axes, (-2, -1)).astype(np.float32)
    match rule:
        case Crop():
            height, width = moved.shape[-2:]
            moved = moved[
                ...,
                int(rule.top * height) : max(int(rule.top * height) + 1, int(rule.bottom * height)),
                int(rule.left * width) : max(int(rule.left * width) + 1, int(rule.right * width)),
            ]
        case Downscale(side=side):
            moved = _downscaled(moved, side)
        case Blur(radius=radius):
            moved = _blurred(moved, radius)
        case _:
            return None
    back = np.moveaxis(moved, (-2, -1), axes)
    return np.rint(back).astype(array.dtype) if array.dtype.kind in "iu" else back.astype(array.dtype)


def height_width(shape: Sequence[int], spec: TensorSpec) -> tuple[int, int] | None:
    """Return the axes of height and width of an array of this shape: by the declared layout, else by where 1, 3 or 4 channels are.

    None for what is no picture, and where the channels could be in two places.
    """
    layout, rank = spec.layout.upper(), len(shape)
    if layout and len(layout) == rank and "H" in layout and "W" in layout:
        return layout.index("H"), layout.index("W")
    if rank not in {3, 4}:
        return None
    channels_last = shape[-1] in {1, 3, 4}
    channels_first = shape[-3] in {1, 3, 4}
    if channels_last == channels_first:
        return None
    return (rank - 3, rank - 2) if channels_last else (rank - 2, rank - 1)


def _downscaled(image: Array, side: int) -> Array:
    height, width = image.shape[-2:]
    step = -(-max(height, width) // side)
    rows = np.minimum(np.arange(0, height, step), height - 1)
    columns = np.minimum(np.arange(0, width, step), width - 1)
    sums = np.add.reduceat(np.add.reduceat(image, rows, axis=-2), columns, axis=-1)
    counts = np.diff(np.append(rows, height))[:, None] * np.diff(np.append(columns, width))[None, :]
    scaled: Array = sums / counts
    return scaled


def _blurred(image: Array, radius: int) -> Array:
    """Return means over squares, edges repeated."""
    pad = [(0, 0)] * (image.ndim - 2) + [(radius, radius)] * 2
    padded = np.pad(image, pad, mode="edge").astype(np.float64)
    size = 2 * radius + 1
    for axis in (-2, -1):
        total = np.cumsum(padded, axis=axis)
        zero = np.zeros_like(np.take(total, [0], axis=axis))
        total = np.concatenate([zero, total], axis=axis)
        count = padded.shape[axis] - size + 1
        padded = (np.take(total, range(size, size + count), axis=axis) - np.take(total, range(count), axis=axis)) / size
    return padded
