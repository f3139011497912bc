"""Reads values out of a document that a person wrote, and collects what is wrong with it. Pure.

Its own module because `spec` says what a rollout is, and this says how a mistake is told.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from difflib import get_close_matches
from enum import StrEnum
from typing import Any, Final, TypeVar

_Choice = TypeVar("_Choice", bound=StrEnum)

MAX_DURATION: Final = timedelta(days=365)
MAX_ERRORS: Final = 100

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_DURATION: Final = re.compile(r"([0-9]{1,9})([smhd])")
_PLAIN: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SHOWN_CHARS: Final = 60


@dataclass(frozen=True, slots=True)
class Place:
    """A value and where it stands. errors: shared by all places of one document."""

    path: str
    value: Any
    errors: list[dict[str, str]]

    def fail(self, message: str) -> None:
        """Note what is wrong here."""
        if len(self.errors) < MAX_ERRORS:
            self.errors.append({"path": self.path, "message": message})

    def shown(self) -> str:
        """Return the value as an error message shows it."""
        match self.value:
            case None:
                return "nothing"
            case bool():
                return str(self.value).lower()
            case dict():
                return "an object"
            case list() | tuple():
                return "a list"
            case _:
                text = repr(self.value) if _is_short(self.value) else f"{type(self.value).__name__}, a long one"
                return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}…"

    def at(self, key: str) -> "Place":
        """Return the place of a field, whether it is there or not."""
        value = self.value.get(key) if isinstance(self.value, dict) else None
        step = f".{key}" if _PLAIN.fullmatch(key) else f"[{key[:_SHOWN_CHARS]!r}]"
        return Place(f"{self.path}{step}", value, self.errors)

    def get(self, key: str) -> "Place | None":
        """Return the place of a field, None when it is not there."""
        return self.at(key) if isinstance(self.value, dict) and key in self.value else None

    def need(self, key: str, advice: str) -> "Place | None":
        """Return the place of a field that must be there; note an error and return None when it is not."""
        found = self.get(key)
        if found is None and isinstance(self.value, dict):
            self.at(key).fail(f"is missing; {advice}")
        return found

    def only(self, allowed: Sequence[str]) -> bool:
        """Return whether this is an object; note an error for every field that it may not have."""
        if not isinstance(self.value, dict):
            self.fail(f"expected an object with {_listed(allowed)}, got {self.shown()}")
            return False
        for key in self.value:
            if key not in allowed:
                self.at(str(key)).fail(_unknown(str(key), allowed))
        return True

    def items(self) -> "list[Place] | None":
        """Return the places in a list, None with an error when it is none."""
        if not isinstance(self.value, list | tuple):
            self.fail(f"expected a list, got {self.shown()}")
            return None
        return [Place(f"{self.path}[{index}]", value, self.errors) for index, value in enumerate(self.value)]

    def text(self, pattern: str = "") -> str | None:
        """Return the text that stands here, None with an error when it is none or does not match `pattern`."""
        if not isinstance(self.value, str):
            self.fail(f"expected text, got {self.shown()}")
            return None
        if pattern and not re.fullmatch(pattern, self.value):
            self.fail(f"expected a name that matches {pattern}, got {self.shown()}")
            return None
        return self.value

    def choice(self, key: str, kind: type[_Choice], usual: _Choice) -> _Choice:
        """Return the member of an enum that a field names, `usual` when it is not there."""
        place = self.get(key)
        if place is None:
            return usual
        known = {member.value: member for member in kind}
        if isinstance(place.value, str) and place.value in known:
            return known[place.value]
        place.fail(f"expected {_listed(tuple(known), last='or')}, got {place.shown()}")
        return usual

    def flag(self, key: str) -> bool:
        """Return a field that is true or false, false when it is not there."""
        place = self.get(key)
        if place is None:
            return False
        if not isinstance(place.value, bool):
            place.fail(f"expected true or false, got {place.shown()}")
            return False
        return place.value

    def whole(self, key: str, least: int, most: int) -> int | None:
        """Return a whole number within bounds, None when the field is not there or wrong."""
        place = self.get(key)
        if place is None:
            return None
        value = place.value
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            place.fail(f"expected a whole number from {least} to {most}, got {place.shown()}")
            return None
        return value

    def number(self, key: str, above: float, most: float, *, below: bool = False) -> float | None:
        """Return a number above `above` and up to `most` (with `below`: less than it), None when not there or wrong."""
        place = self.get(key)
        if place is None:
            return None
        value = place.value
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(_narrow(value))
        if not is_number or not above < value <= most or (below and value == most) or not above < float(value):
            limit = f"less than {most:g}" if below else f"at most {most:g}"
            place.fail(f"expected a number greater than {above:g} and {limit}, got {place.shown()}")
            return None
        return float(value)

    def duration(self, key: str, usual: timedelta, *, positive: bool = False) -> timedelta:
        """Return the time that a field gives (`90s 10m 6h 2d` or whole seconds), `usual` when it is not there or wrong."""
        place = self.get(key)
        if place is None:
            return usual
        seconds = _seconds(place.value)
        if seconds is None:
            place.fail(f"expected a duration such as 90s, 10m, 6h or 2d, or whole seconds, got {place.shown()}")
            return usual
        if not (1 if positive else 0) <= seconds <= MAX_DURATION.total_seconds():
            least = "at least 1s" if positive else "0s or more"
            place.fail(f"expected {least} and at most {MAX_DURATION.days}d, got {place.shown()}")
            return usual
        return timedelta(seconds=seconds)


def duration_text(span: timedelta) -> str:
    """Return a whole number of seconds as a spec writes it, in the largest unit that is exact: `90s`, `10m`, `0s`."""
    seconds = span // timedelta(seconds=1)
    for unit in ("d", "h", "m"):
        if seconds and seconds % _UNITS[unit] == 0:
            return f"{seconds // _UNITS[unit]}{unit}"
    return f"{seconds}s"


def _seconds(value: Any) -> int | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    found = _DURATION.fullmatch(value) if isinstance(value, str) else None
    return int(found[1]) * _UNITS[found[2]] if found is not None else None


def _is_short(value: Any) -> bool:
    # repr of a huge integer raises: Python refuses to write more than 4,300 digits
    return not isinstance(value, int) or value.bit_length() < 512


def _narrow(value: float) -> float:
    """Return a number as float; an integer that none can hold counts as infinite."""
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _listed(words: Sequence[str], last: str = "and") -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {last} {words[-1]}"


def _unknown(key: str, allowed: Sequence[str]) -> str:
    near = get_close_matches(key, allowed, n=1, cutoff=0.6) or [name for name in allowed if name.startswith(f"{key}_")]
    return f"is not a field here; {f'did you mean {near[0]}?' if near else f'expected {_listed(allowed)}'}"
