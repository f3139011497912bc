"""What of a state, presence or event may go into a database: checked here, before messages of many devices share a transaction.

MessagePack can say more than a database can hold: integers beyond 63 bits, not-a-number, raw bytes, times, text with NUL. One
device that says such a thing must never keep the others' messages of its batch from being stored. Telemetry is judged window by
window (`telemetry.service`), so that a bad window costs only itself.
"""

import math
from typing import Any, Final, TypeVar

import msgspec

from edgefleet_protocol.errors import BadMessageError

MAX_DEPTH: Final = 16
MAX_EVENT_BYTES: Final = 32 * 1024
_LEAST, _MOST = -(2**63), 2**63 - 1

M = TypeVar("M", bound=msgspec.Struct)


def storable(message: M) -> M:
    """Return the message with NUL characters replaced by U+FFFD and non-finite numbers in free-form parts by null.

    Raises BadMessageError for integers beyond 63 bits, bytes, times, keys that are no text, and deep nesting.
    """
    return _cleaned(message, 0)


def _cleaned(message: M, depth: int) -> M:
    changed = {}
    for name in message.__struct_fields__:
        value = getattr(message, name)
        clean = _clean(value, depth + 1)
        if clean is not value:
            changed[name] = clean
    return msgspec.structs.replace(message, **changed) if changed else message


def _clean(value: Any, depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise BadMessageError(f"the message nests deeper than {MAX_DEPTH} levels")
    match value:
        case None | bool():
            return value
        case str():
            return value.replace("\0", "\N{REPLACEMENT CHARACTER}") if "\0" in value else value
        case int():
            if not _LEAST <= value <= _MOST:
                raise BadMessageError("the message holds an integer beyond 64 bits with sign")
            return value
        case float():
            return value if math.isfinite(value) else None
        case msgspec.Struct():
            return _cleaned(value, depth)
        case list():
            return [_clean(item, depth + 1) for item in value]
        case dict() if all(isinstance(key, str) for key in value):
            return {_clean(key, depth): _clean(item, depth + 1) for key, item in value.items()}
        case _:
            raise BadMessageError(f"the message holds {type(value).__name__}, which no report may carry")
