"""Figures and names of a report as short text. Pure; None and what is no finite number is a dash."""

import math
from typing import Any, Final

from edgefleet_terms.device_figures import size_text

NONE: Final = "–"
MAX_TEXT: Final = 400
"""Characters of one text that are shown; a tensor's name can be megabytes long."""


def size(value: float | None) -> str:
    """Return bytes in binary units, as pages and edgectl show them."""
    return NONE if value is None or not math.isfinite(value) or value < 0 else size_text(value)


def milliseconds(value: float | None) -> str:
    """Return milliseconds with a precision that suits their size."""
    if value is None or not math.isfinite(value):
        return NONE
    if value < 1:
        return f"{value:.3f} ms"
    return f"{value:.2f} ms" if value < 10 else f"{value:.0f} ms"


def ratio(value: float | None) -> str:
    """Return a ratio with two decimals and a multiplication sign."""
    return NONE if value is None or not math.isfinite(value) else f"{value:.2f} ×"


def number(value: float | None, digits: int = 4) -> str:
    """Return a number with so many digits after the point, or in short scientific form when it is too small for them."""
    if value is None or not math.isfinite(value):
        return NONE
    if value and abs(value) < 10**-digits:
        return f"{value:.1e}"
    return f"{value:.{digits}f}"


def seconds(value: float) -> str:
    """Return seconds."""
    return f"{value:.2f} s" if value < 10 else f"{value:.0f} s"


def plain(value: Any) -> str:
    """Return a fact of unknown kind as text: lists with commas, mappings as `key: value`."""
    if value is None or (isinstance(value, str | list | dict) and not value):
        return NONE
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, dict):
        return ", ".join(f"{key}: {plain(item)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(plain(item) for item in value)
    return str(value)


def shown(text: str) -> str:
    """Return `text` cut to MAX_TEXT, control and direction characters as escapes: they must not reorder what stands around them."""
    cut = text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}…"
    if cut.isprintable():
        return cut
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in cut)
