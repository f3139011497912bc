"""Kinds of fields of a spec: what may be written there, how it is read and written, and what JSON Schema says of it. Pure.

Reading is strict: no text for a number, no number for yes or no. What is wrong is worded here, the same for every field of a kind.
"""

import re
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any, Final

from edgefleet_protocol.errors import EdgefleetError
from edgefleet_protocol.ids import ReleaseRef
from edgefleet_protocol.messages import TRANSIENT, ErrorClass
from edgefleet_server.fleet.selectors.grammar import is_label_key, parse_selector
from edgefleet_server.outbound.address_policy import parse_target
from edgefleet_server.rollout.spec.parts import (
    DURATION_UNITS,
    ExpectedError,
    Kind,
    Mistake,
    MistakesError,
    Numbered,
    duration_text,
    in_words,
    shown,
)

MAX_DURATION: Final = timedelta(days=365)
NAME: Final = "[a-z0-9][a-z0-9-]{0,30}"
PREVIOUS: Final = "previous"
NO_ROLLBACK: Final = "none"
NO_APPROVAL: Final = "none"
PROFILE: Final = "profile"
RUNTIME: Final = "runtime"
MAX_STRATUM_KEYS: Final = 3
MAX_PER_MIN: Final = 3000
"""Rolling back is at least ten times as fast; more than the engine writes in a tenth of its time could not keep that."""
_BITS_RANGE: Final = range(8000, 10**12 + 1)

_DURATION: Final = re.compile(r"([0-9]{1,9})([smhd])")
_SPAN: Final = re.compile(r"([0-9]{1,9}[smhd])\.\.([0-9]{1,9}[smhd])")
_RATE: Final = re.compile(r"([0-9]{1,9})/min")
_BITS: Final = re.compile(r"([0-9]{1,9})([kMG]?)bps")
_SIZES: Final = {"G": 10**9, "M": 10**6, "k": 10**3, "": 1}
_ELSEWHERE: Final = {
    "confirm-traffic-increase": "each stage is one increase here: write confirm-rollout in the stage that it leads to",
    "post-rollout": "it decides nothing: `edgectl webhook create URL --events 'edgefleet.rollout.*'` tells of every end",
    "event": "it decides nothing: `edgectl webhook create URL --events 'edgefleet.rollout.*'` tells of every event",
}
"""Flagger's other kinds, and what has their meaning here."""
_CLASSES: Final = sorted(one.value for one in TRANSIENT)


# ---- plain values


def listed(value: Any) -> list[Any]:
    """Return the items of a list. Raises ExpectedError when it is none."""
    if not isinstance(value, list | tuple):
        raise ExpectedError("a list")
    return list(value)


def text(value: Any) -> str:
    """Return text as it stands. Raises ExpectedError when it is none."""
    if not isinstance(value, str):
        raise ExpectedError("text")
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ExpectedError("true or false")
    return value


TEXT: Final = Kind(text, {"type": "string"})
FLAG: Final = Kind(_flag, {"type": "boolean"})


def items(what: str, least: int = 0, most: int | None = None) -> Kind:
    """Return the kind of a list of so many; what: its items, in a message."""

    def checked(value: Any) -> list[Numbered]:
        found = listed(value)
        if len(found) < least or (most is not None and len(found) > most):
            span = f"{least} to {most}" if least else f"at most {most}"
            raise ValueError(f"expected {span} {what}, got {len(found)}")
        return [one if isinstance(one, Numbered) else Numbered((index,), one) for index, one in enumerate(found)]

    bounds = {"minItems": least or None, "maxItems": most}
    return Kind(before=checked, schema={word: bound for word, bound in bounds.items() if bound is not None})


def matching(pattern: str) -> dict[str, Any]:
    """Return what JSON Schema says of text that matches a pattern as a whole."""
    return {"type": "string", "pattern": f"^{pattern}$"}


def named(pattern: str) -> Kind:
    """Return the kind of a name that matches a pattern as a whole."""

    def read(value: Any) -> str:
        if re.fullmatch(pattern, text(value)) is None:
            raise ExpectedError(f"a name that matches {pattern}")
        return str(value)

    return Kind(read, matching(pattern))


def constant(value: str, in_message: str) -> Kind:
    """Return the kind of a field that takes one value."""

    def read(found: Any) -> Any:
        if found != value:
            raise ExpectedError(in_message)
        return found

    return Kind(read, {"const": value})


def whole(least: int, most: int) -> Kind:
    """Return the kind of a whole number from `least` to `most`."""

    def read(value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise ExpectedError(f"a whole number from {least} to {most}")
        return value

    return Kind(read, {"type": "integer", "minimum": least, "maximum": most})


def number(above: float, most: float, *, below: bool = False) -> Kind:
    """Return the kind of a number above `above` and up to `most` (with `below`: less than it)."""
    bound = "exclusiveMaximum" if below else "maximum"
    schema = {"type": "number", "exclusiveMinimum": above, bound: most}
    return Kind(lambda value: read_number(value, above, most, below=below), schema)


def share(most: float) -> Kind:
    """Return the kind of a share from 0 up to `most`."""

    def read(value: Any) -> float:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not 0 <= value <= most:
            raise ExpectedError(f"a number from 0 to {most:g}")
        return float(value)

    return Kind(read, {"type": "number", "minimum": 0, "maximum": most})


def read_number(value: Any, above: float, most: float, *, below: bool = False) -> float:
    """Return a number above `above` and up to `most` (with `below`: less than it). Raises ExpectedError."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    # an integer that no float holds is compared as it is, and one that becomes `above` as float is too small
    if not is_number or not above < value <= most or (below and value == most) or not above < float(value):
        raise ExpectedError(f"a number greater than {above:g} and {'less than' if below else 'at most'} {most:g}")
    return float(value)


def duration(*, positive: bool = False, most: timedelta = MAX_DURATION) -> Kind:
    """Return the kind of a time: `90s 10m 6h 2d` or whole seconds."""

    def read(value: Any) -> timedelta:
        span = read_duration(value, positive=positive)
        if span > most:
            raise ExpectedError(f"at most {duration_text(most)}")
        return span

    seconds = {"type": "integer", "minimum": int(positive), "maximum": MAX_DURATION // timedelta(seconds=1)}
    return Kind(read, {"anyOf": [matching(_DURATION.pattern), seconds]})


def read_duration(value: Any, *, positive: bool) -> timedelta:
    """Return a time as it is written. Raises ExpectedError."""
    if isinstance(value, str) and (found := _DURATION.fullmatch(value)):
        value = int(found[1]) * DURATION_UNITS[found[2]]
    if not isinstance(value, int) or isinstance(value, bool):
        raise ExpectedError("a duration such as 90s, 10m, 6h or 2d, or whole seconds")
    if not int(positive) <= value <= MAX_DURATION.total_seconds():
        raise ExpectedError(f"{'at least 1s' if positive else '0s or more'} and at most {MAX_DURATION.days}d")
    return timedelta(seconds=value)


# ---- words of the field


def selector_flaw(selector: str) -> str:
    """Return what is wrong with a selector, "" when nothing is."""
    try:
        parse_selector(selector)
    except EdgefleetError as error:
        return f"{error.message} {error.next_step}".strip()
    return ""


def _selector(value: Any) -> str:
    if flaw := selector_flaw(text(value)):
        raise ValueError(flaw)
    return str(value)


def _release(value: Any) -> str:
    try:
        return str(ReleaseRef.parse(text(value)))
    except EdgefleetError as error:
        raise ValueError(f"expected a release as model@version: {error.message}") from error


def _rollback_to(value: Any) -> str:
    written = text(value)
    if written in (PREVIOUS, NO_ROLLBACK):
        return written
    try:
        return str(ReleaseRef.parse(written))
    except EdgefleetError:
        raise ExpectedError("previous, none or a release as model@version") from None


def _url(value: Any) -> str:
    url = text(value)
    try:
        if url:
            parse_target(url)
    except EdgefleetError as error:
        raise ValueError(error.message) from error
    return url


def _per_min(value: Any) -> int:
    found = _RATE.fullmatch(value) if isinstance(value, str) else None
    if found is None or not 1 <= int(found[1]) <= MAX_PER_MIN:
        raise ExpectedError(f"devices a minute from 1/min to {MAX_PER_MIN}/min")
    return int(found[1])


def _bits(value: Any) -> int:
    found = _BITS.fullmatch(value) if isinstance(value, str) else None
    bits = int(found[1]) * _SIZES[found[2]] if found is not None else 0
    if bits not in _BITS_RANGE:
        raise ExpectedError("bits a second from 8kbps to 1000Gbps, for example 200Mbps")
    return bits


def _bits_text(bits: int | None) -> str | None:
    if bits is None:
        return None
    return next(f"{bits // size}{unit}bps" for unit, size in _SIZES.items() if bits % size == 0)


def _backoff(value: Any) -> tuple[timedelta, ...]:
    found = _SPAN.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise ExpectedError("the first and the longest wait, for example 2m..1h")
    mistakes, ends = list[Mistake](), [timedelta(minutes=2), timedelta(hours=1)]
    for index, end in enumerate(found.groups()):
        try:
            ends[index] = read_duration(end, positive=True)
        except ExpectedError as error:
            mistakes.append(((), in_words(error, end)))
    if ends[1] < ends[0]:
        mistakes.append(((), f"the longest wait is shorter than the first one; write {found[2]}..{found[1]}"))
    if mistakes:
        raise MistakesError(mistakes)
    return tuple(ends)


def _classes(value: Any) -> tuple[ErrorClass, ...]:
    found = listed(value)
    if wrong := [((index,), _class_flaw(item)) for index, item in enumerate(found) if item not in _CLASSES]:
        raise MistakesError(wrong)
    return tuple(dict.fromkeys(ErrorClass(item) for item in found))


def _class_flaw(item: Any) -> str:
    is_permanent = isinstance(item, str) and item in [one.value for one in ErrorClass]
    why = "is never tried again: it lies in the bundle" if is_permanent else "is no such class"
    return f"{shown(item)} {why}; expected some of {', '.join(_CLASSES)}"


def _strata(value: Any) -> tuple[str, ...]:
    found = listed(value)
    text_only = ExpectedError("text")
    other: list[Mistake] = [
        ((index,), in_words(text_only, key)) for index, key in enumerate(found) if not isinstance(key, str)
    ]
    if wrong := other or list(_strata_flaws(found)):
        raise MistakesError(wrong)
    return tuple(found)


def _strata_flaws(found: Sequence[str]) -> Iterator[Mistake]:
    for index, key in enumerate(found):
        if found.count(key) > 1:
            yield (index,), f"{key!r} is named twice"
        elif key not in (PROFILE, RUNTIME) and not is_label_key(key):
            yield (index,), f"{shown(key)} is no key of a label; expected profile, runtime or keys of labels"
    labels = [key for key in found if key not in (PROFILE, RUNTIME)]
    if not found or found[0] != PROFILE:
        yield (), "the first stratum is profile: each profile has a bundle of its own, so it is judged by itself"
    elif len(labels) >= MAX_STRATUM_KEYS:
        most = MAX_STRATUM_KEYS - 1
        yield (), f"expected at most {most} keys of labels, got {len(labels)}: strata would be too small"


def _known_kind(value: Any) -> Any:
    if isinstance(value, str) and value in _ELSEWHERE:
        raise ValueError(f"{value} is no gate; {_ELSEWHERE[value]}")
    return value


def one_or_many(value: Any) -> Any:
    """Return the gates that a field `webhook` writes: one object, or a list of them."""
    return [Numbered((), value)] if isinstance(value, dict) else value


def asked_approval(value: Any) -> Any:
    """Return what a field `approval` asks for, None for no approval."""
    if value != NO_APPROVAL and not isinstance(value, dict):
        raise ExpectedError("none or {role: approver, timeout: 48h}")
    return None if value == NO_APPROVAL else value


def _with_on(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    # YAML 1.1 reads the key `on` as true, and JSON writes that as "true"
    return {"on" if key is True or key == "true" else key: one for key, one in value.items()}


SELECTOR: Final = Kind(_selector, {"type": "string"})
RELEASE: Final = Kind(_release, {"type": "string", "pattern": "^[^@]+@.+$"})
ROLLBACK_TO: Final = Kind(_rollback_to, {"type": "string"})
URL: Final = Kind(_url, {"type": "string", "format": "uri"})
PER_MIN: Final = Kind(_per_min, matching(_RATE.pattern), "{}/min".format)
BITS: Final = Kind(_bits, matching(_BITS.pattern), _bits_text)
BACKOFF: Final = Kind(_backoff, matching(_SPAN.pattern), "..".join)
CLASSES: Final = Kind(_classes, {"type": "array", "items": {"enum": _CLASSES}})
STRATA: Final = Kind(_strata, {"type": "array", "items": {"type": "string"}, "minItems": 1})
GATE_KIND: Final = Kind(before=_known_kind)
RETRIES: Final = Kind(before=_with_on)
