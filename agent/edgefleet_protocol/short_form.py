"""A message in fewer bytes: without the fields at the end that say what is assumed anyway, whole floats as integers, and those that four
bytes hold exactly in four.
"""

import struct
from functools import cache
from typing import Any, Final

import msgspec

_SINGLE: Final = struct.Struct(">f")
_MOST_SINGLE: Final = 2.0**127


def single(value: float) -> float:
    """Return the nearest number that four bytes hold: what was measured has no more digits that mean anything."""
    if not abs(value) < _MOST_SINGLE:
        return value
    nearest: float = _SINGLE.unpack(_SINGLE.pack(value))[0]
    return nearest


def shortened(value: Any) -> Any:
    """Return what to encode in a message's place: lists for its structs. Every reader fills in what is missing."""
    kind = type(value)
    if kind is int or kind is str or kind is bytes:
        return value  # most of a message
    if kind is float:
        return _shortened_float(value)
    if kind is list:
        return [shortened(one) for one in value]
    if isinstance(value, msgspec.Struct) and value.__struct_config__.array_like:
        fields = _fields(type(value))
        values = [getattr(value, field.name) for field in fields]
        while values and _is_assumed(fields[len(values) - 1], values[-1]):
            values.pop()
        return [shortened(one) for one in values]
    return value


def _shortened_float(value: float) -> float | int | msgspec.Raw:
    if value.is_integer() and abs(value) < 2**53:
        return int(value)
    if single(value) == value and abs(value) < _MOST_SINGLE:
        return msgspec.Raw(b"\xca" + _SINGLE.pack(value))
    return value


@cache
def _fields(kind: type[msgspec.Struct]) -> tuple[msgspec.structs.FieldInfo, ...]:
    """Return the fields of a kind of message: msgspec reads the annotations with each question, most of the time that a message took."""
    return msgspec.structs.fields(kind)


def _is_assumed(field: msgspec.structs.FieldInfo, value: Any) -> bool:
    default = field.default_factory() if field.default_factory is not msgspec.NODEFAULT else field.default
    return default is not msgspec.NODEFAULT and bool(value == default)
