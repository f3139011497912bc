"""Display names of devices: what people call them. Pure.

A name identifies nothing and decides nothing: several devices may have the same, and a device may choose its own when it enrols. So
whatever shows a name shows the id too, and commands take the id. Source: docs/how-to/enrol-a-device.md.
"""

import unicodedata
from typing import Final

from edgefleet_server.fleet.errors import BadDisplayNameError

MAX_CHARS: Final = 64
_UNSEEN: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
"""Categories of characters that do not show, or that change the direction of what follows."""

_BLANK: Final = frozenset("\u115f\u1160\u2800\u3164\uffa0")
"""Letters and symbols that are drawn as nothing: a name of these would be an empty link."""


def check_name(text: str) -> str:
    """Return a name as it is stored: composed, with single spaces. Raises BadDisplayNameError."""
    name = _composed(text)
    if not name or len(name) > MAX_CHARS or _has_unseen(name):
        raise BadDisplayNameError(
            f"{text[: 2 * MAX_CHARS]!r} cannot be the name of a device",
            next_step=f"use 1 to {MAX_CHARS} visible characters",
        )
    return name


def readable(text: str) -> str:
    """Return the name that a device gives itself, or "" when it cannot be shown."""
    name = _composed(text)[:MAX_CHARS].rstrip()
    return "" if _has_unseen(name) else name


def numbered(name: str, number: int, count: int) -> str:
    """Return the name of one of `count` devices that get the same: with its number, from 1, when there are several."""
    if not name or count == 1:
        return name
    return f"{name[: MAX_CHARS - 8]} {number}"


def _composed(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).split())


def _has_unseen(name: str) -> bool:
    kinds = [unicodedata.category(char) for char in name]
    hangs_on_nothing = kinds[:1] in (
        ["Mn"],
        ["Mc"],
        ["Me"],
    )  # an accent, for example: it is drawn over what stands before the name
    return hangs_on_nothing or not (_UNSEEN.isdisjoint(kinds) and _BLANK.isdisjoint(name))
