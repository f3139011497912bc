"""A message in fewer bytes: without the fields at the end that say what is assumed anyway, whole floats as integers, and those that four
bytes hold exactly in four.
"""

import struct
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
    if isinstance(value, msgspec.Struct) and value.__struct_config__.array_like:
        fields = msgspec.structs.fields(value)
        values = [getattr(value, field.name) for field in fields]
        while values and _is_assumed(fields[len(values) - 1], values[-1]):
            values.pop()
        return [shortened(one) for one in values]
    if isinstance(value, list):
        return [shortened(one) for one in value]
    if type(value) is float and value.is_integer() and abs(value) < 2**53:
        return int(value)
    if type(value) is float and single(value) == value and abs(value) < _MOST_SINGLE:
        return msgspec.Raw(b"\xca" + _SINGLE.pack(value))
    return value


def _is_assumed(field: msgspec.structs.FieldInfo, value: Any) -> bool:
    default = field.default_factory() if field.default_factory is not msgspec.NODEFAULT else field.default
    return default is not msgspec.NODEFAULT and bool(value == default)
