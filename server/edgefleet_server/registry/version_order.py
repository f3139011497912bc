"""Which of two versions is the newer one, and what is said where an older one goes out. Pure.

Versions of numbers, with a pre-release or without, are ordered as Semantic Versioning 2.0.0 does (item 11); `1.0` and `1.0.0` are alike.
Where one of the two is something else, such as a date with letters or a hash, the one that was published later is newer.
"""

import re
from collections.abc import Mapping
from typing import Final

from edgefleet_protocol.ids import ReleaseRef

_NUMBERS: Final = re.compile(r"v?(\d{1,18}(?:\.\d{1,18})*)(?:-([0-9A-Za-z.-]+))?(?:\+[0-9A-Za-z.-]+)?")
_Part = tuple[int, int, str]
_Key = tuple[tuple[int, ...], tuple[_Part, ...]]
_RELEASED: Final[_Part] = (2, 0, "")
"""Above every part of a pre-release."""


def is_newer(version: str, than: str, published: Mapping[str, int]) -> bool:
    """Return whether a version is newer than another one. published: their places in the order of publication; unknown ones are oldest."""
    one, other = _key(version), _key(than)
    if one is not None and other is not None:
        return one > other
    return version != than and published.get(version, 0) > published.get(than, 0)


def downgrade(ref: ReleaseRef, running: Mapping[str, int], devices: int, published: Mapping[str, int]) -> str:
    """Return what to say before a release goes out to devices that run newer ones of its model; "" when none does.

    running: how many of them run each version; devices: all of them.
    """
    newer = sorted(version for version in running if is_newer(version, ref.version, published))
    if not newer:
        return ""
    count = sum(running[version] for version in newer)
    named = " or ".join(f"{ref.model}@{version}" for version in newer)
    return f"{count} of {devices} devices run {named}, which {'is' if len(newer) == 1 else 'are'} newer than {ref}"


def _key(version: str) -> _Key | None:
    found = _NUMBERS.fullmatch(version)
    if found is None:
        return None
    numbers = [int(part) for part in found[1].split(".")]
    while len(numbers) > 1 and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers), (*(_part(part) for part in found[2].split(".")), (-1, 0, "")) if found[2] else (_RELEASED,)


def _part(text: str) -> _Part:
    return (0, int(text), "") if text.isdecimal() else (1, 0, text)
