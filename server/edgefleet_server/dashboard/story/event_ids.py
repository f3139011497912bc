"""The ids of some events as a short text for an address: `120-7.4` is 120 to 127, and 131. Pure.

Each part is how far an id lies behind the one before; `-` and a number are so many more ids in a row.
"""

from collections.abc import Iterable
from typing import Final

MOST_IDS: Final = 1_000
"""A story folds no more events than this."""
MAX_CHARS: Final = 8_000


def packed(ids: Iterable[int]) -> str:
    """Return the text of positive ids; the order and repetitions do not count."""
    parts: list[list[int]] = []
    before = 0
    for one in sorted(set(ids)):
        if parts and one == before + 1:
            parts[-1][1] += 1
        else:
            parts.append([one - before, 0])
        before = one
    return ".".join(f"{gap}-{more}" if more else str(gap) for gap, more in parts)


def unpacked(text: str) -> list[int]:
    """Return the ids, in order. Raises ValueError for what `packed` does not return, and for more than MOST_IDS."""
    found: list[int] = []
    before = 0
    for part in text.split("."):
        gap, _, more = part.partition("-")
        first, rest = before + int(gap), int(more or 0)
        if int(gap) < 1 or rest < 0 or len(found) + rest >= MOST_IDS:
            raise ValueError(text)
        found += range(first, first + rest + 1)
        before = found[-1]
    if packed(found) != text or before >= 2**63:
        raise ValueError(text)
    return found
