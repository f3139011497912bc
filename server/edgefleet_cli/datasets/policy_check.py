"""What of a record may stand in a data set: each field is checked against the policy of its release again (docs/operate/privacy.md).

1. What the policy does not name, names as dropped, or names with a rule that this version does not know, is left out.
2. A value must be what its rules leave: hashes where they hash, whole bins where they bin, no larger picture than they allow. What is not
   is left out, whatever made it.
3. Only the fields, and the boxes of the model's own outputs, are taken from a record. Its other parts are never written.
4. What was left out is counted by the names of the model; a name that the model does not have is counted as `OTHER` and never written.
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Mapping, Sequence
from typing import Any, Final

from edgefleet_cli.datasets.model import Array, Policy, ReleaseFacts, Value
from edgefleet_protocol.digest import sha256_hex
from edgefleet_protocol.manifest import TensorSpec

OTHER: Final = "(not of the model)"
_DTYPE = re.compile(r"[<|](?:b1|[iu][1248]|f[248])")
_HASH = re.compile(r"[0-9a-f]{16}")
_CODES: Final = {
    "b1": "?", "i1": "b", "u1": "B", "i2": "h", "u2": "H", "i4": "i", "u4": "I", "i8": "q", "u8": "Q", "f2": "e", "f4": "f", "f8": "d",
}  # fmt: skip
_IMAGE_RULES: Final = frozenset({"crop", "downscale", "blur"})
_RULES: Final = _IMAGE_RULES | {"keep", "hash", "bin"}
NOTHING: Final = Policy(outputs=False, digest="")


def parse_policy(data: bytes | None) -> Policy:
    """Return the policy of a bundle's `privacy.json`; None: it has none. One that cannot be read keeps nothing."""
    if data is None:
        return Policy()
    try:
        document = json.loads(data)
        fields = {str(name): tuple(dict(rule) for rule in rules) for name, rules in document.get("fields", {}).items()}
        return Policy(fields, document.get("outputs", True) is True, sha256_hex(data))
    except (ValueError, TypeError, AttributeError):
        return Policy(outputs=False, digest=sha256_hex(data))


def numbers(array: Array) -> tuple[Any, ...]:
    """Return the values of an array, flat."""
    code = _CODES[array.dtype[1:]]
    return struct.unpack(f"<{len(array.data) // struct.calcsize('<' + code)}{code}", array.data)


def kept_fields(fields: Mapping[str, Any], facts: ReleaseFacts) -> tuple[dict[str, Value], list[str]]:
    """Return the fields that the policy keeps, and the names of those that were left out, as they may be counted."""
    kept: dict[str, Value] = {}
    left: list[str] = []
    for name, raw in fields.items():
        is_known = isinstance(name, str) and (name in facts.inputs or name in facts.columns)
        value = _checked(name, raw, facts) if is_known else None
        if value is None:
            left.append(name if is_known else OTHER)
        else:
            kept[name] = value
    return kept, left


def tensor(raw: Any) -> Array | None:
    """Return an array as it stands in a record, None for anything else."""
    if not isinstance(raw, dict) or set(raw) != {"dtype", "shape", "data"}:
        return None
    dtype, shape, data = raw["dtype"], raw["shape"], raw["data"]
    if not isinstance(dtype, str) or _DTYPE.fullmatch(dtype) is None or not isinstance(data, bytes):
        return None
    if not isinstance(shape, list) or any(type(one) is not int or one < 0 for one in shape):
        return None
    return Array(dtype, tuple(shape), data) if math.prod(shape) * int(dtype[2:]) == len(data) else None


def _checked(name: str, raw: Any, facts: ReleaseFacts) -> Value | None:
    fields = facts.policy.fields
    home = facts.columns.get(name, name)
    rules = fields.get(name, fields.get(home))
    spec = facts.inputs.get(home)
    words = [rule.get("do") for rule in rules or ()]
    if not rules or spec is None or not _RULES.issuperset(word for word in words if isinstance(word, str)):
        return None
    if not all(isinstance(word, str) for word in words):
        return None
    if "hash" in words:
        return _hashes(raw)
    array = tensor(raw)
    if array is None or _is_whole_table(name, array, facts):
        return None
    return (
        array if all(_holds(rules, at, array, spec) for at in range(len(rules))) and _fits(rules, array, spec) else None
    )


def _hashes(raw: Any) -> tuple[str, ...] | None:
    if not isinstance(raw, list) or not all(isinstance(one, str) and _HASH.fullmatch(one) for one in raw):
        return None
    return tuple(raw)


def _is_whole_table(name: str, array: Array, facts: ReleaseFacts) -> bool:
    """Return whether the columns of a table come together, although rules are about each."""
    columns = sum(home == name for home in facts.columns.values())
    return name not in facts.columns and columns > 0 and len(array.shape) > 0 and array.shape[-1] == columns


def _holds(rules: Sequence[Mapping[str, Any]], at: int, array: Array, spec: TensorSpec) -> bool:
    rule = rules[at]
    match rule["do"]:
        case "bin":
            if any(later["do"] in {"downscale", "blur"} for later in rules[at + 1 :]):
                return True  # means of bins are no bins
            return _is_binned(array, rule.get("width"))
        case "crop" | "downscale" | "blur":
            return height_width(array.shape, spec) is not None and array.dtype[1] in "iuf"
        case _:
            return True


def _is_binned(array: Array, width: Any) -> bool:
    if not isinstance(width, int | float) or isinstance(width, bool) or not (math.isfinite(width) and width > 0):
        return False
    if array.dtype != "<f4":
        return False
    return all(not math.isfinite(one) or one in _edges(one, width) for one in set(numbers(array)))


def _edges(value: float, width: float) -> set[float]:
    """Return the lower edges next to a value, as float32 holds them."""
    nearest = round(value / width)
    try:
        return {struct.unpack("<f", struct.pack("<f", n * width))[0] for n in (nearest - 1, nearest, nearest + 1)}
    except OverflowError:
        return set()


def _fits(rules: Sequence[Mapping[str, Any]], array: Array, spec: TensorSpec) -> bool:
    """Return whether a picture is no larger than its rules leave of one of the model's size."""
    if not any(rule["do"] in {"crop", "downscale"} for rule in rules):
        return True
    axes = height_width(array.shape, spec)
    if axes is None:
        return False
    sides = [spec.shape[axis] if len(spec.shape) == len(array.shape) else "" for axis in axes]
    height, width = (one if isinstance(one, int) else None for one in sides)
    longest: int | None = None
    for rule in rules:
        try:
            if rule["do"] == "crop":
                height = _cropped(height, float(rule.get("top", 0.0)), float(rule.get("bottom", 1.0)))
                width = _cropped(width, float(rule.get("left", 0.0)), float(rule.get("right", 1.0)))
            elif rule["do"] == "downscale":
                side = int(rule["side"])
                longest = side if longest is None else min(longest, side)
                if height is not None and width is not None:
                    step = -(-max(height, width) // side)
                    height, width = -(-height // step), -(-width // step)
        except (KeyError, TypeError, ValueError, ZeroDivisionError):
            return False
    found = [array.shape[axis] for axis in axes]
    allowed = [one if one is not None else longest for one in (height, width)]
    return all(most is None or had <= most for had, most in zip(found, allowed, strict=True)) and (
        longest is None or max(found) <= longest
    )


def _cropped(size: int | None, least: float, most: float) -> int | None:
    return None if size is None else max(1, int(most * size) - int(least * size))


def height_width(shape: Sequence[int], spec: TensorSpec) -> tuple[int, int] | None:
    """Return the axes of height and width as the device finds them (`edgefleet_runtime.privacy`), None for what is no picture."""
    layout, rank = spec.layout.upper(), len(shape)
    if layout and len(layout) == rank and "H" in layout and "W" in layout:
        return layout.index("H"), layout.index("W")
    if rank not in {3, 4}:
        return None
    channels_last, channels_first = shape[-1] in {1, 3, 4}, shape[-3] in {1, 3, 4}
    if channels_last == channels_first:
        return None
    return (rank - 3, rank - 2) if channels_last else (rank - 2, rank - 1)
