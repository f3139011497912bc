"""Selectors and labels: the grammar of Kubernetes label selectors, pure.

Grammar: requirements joined by commas, all must hold: `k=v`, `k==v`, `k!=v`, `k in (a,b)`, `k notin (a,b)`, `k` (has it),
`!k` (has it not), `k>n`, `k<n` (whole numbers). The empty selector matches every device.

Rules:
1. `!=` and `notin` also hold for a device without the key, as in Kubernetes.
2. `>` and `<` never hold without the key or for a value that is not a whole number.
3. A device may be in several groups: `group=x` and `in` hold when it is in one of them, `!=` and `notin` when in none,
   `group` when in any, `>` and `<` never.
4. Facts (`id profile arch status health group model.<name> free_mb suspect`) beat labels; labels of those names are refused.
Source: Kubernetes documentation, "Labels and Selectors"; docs/how-to/find-devices.md.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Final

from edgefleet_server.fleet.errors import BadLabelError, BadSelectorError
from edgefleet_server.fleet.model import DeviceFacts

RESERVED: Final = frozenset({"id", "profile", "arch", "status", "health", "group", "free_mb", "suspect"})
MODEL_PREFIX: Final = "model."
GROUP: Final = "group"
SUSPECT: Final = "suspect"
HEALTH: Final = "health"
MAX_SELECTOR_CHARS: Final = 4096
MAX_LABELS: Final = 64

_KEY = re.compile(r"(?:[a-z0-9](?:[a-z0-9.-]{0,61}[a-z0-9])?/)?[A-Za-z0-9](?:[A-Za-z0-9._-]{0,125}[A-Za-z0-9])?")
_VALUE = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9._+/-]{0,125}[A-Za-z0-9])?)?")  # with /, as in Europe/Berlin
_NUMBER = re.compile(r"-?[0-9]{1,18}")
_TOKEN = re.compile(r"\s*(?:(?P<sign>==|!=|[=!<>(),])|(?P<word>[^\s=!<>(),]+))")
_HELP: Final = "write requirements such as env=prod,profile in (a,b),!retired,free_mb>500"


class Operator(StrEnum):
    """How a requirement compares."""

    EQUALS = "="
    NOT_EQUALS = "!="
    IN = "in"
    NOT_IN = "notin"
    EXISTS = "exists"
    MISSING = "missing"
    GREATER = ">"
    LESS = "<"


@dataclass(frozen=True)
class Requirement:
    """One condition on one key."""

    key: str
    operator: Operator
    values: tuple[str, ...] = ()

    def holds(self, facts: Mapping[str, str], groups: Collection[str] = ()) -> bool:
        """Return whether a device with these facts and labels, in these groups, meets the condition."""
        if self.key == GROUP:
            return self._holds_among(groups)
        value = facts.get(self.key)
        match self.operator:
            case Operator.EXISTS:
                return value is not None
            case Operator.MISSING:
                return value is None
            case Operator.EQUALS | Operator.IN:
                return value is not None and value in self.values
            case Operator.NOT_EQUALS | Operator.NOT_IN:
                return value is None or value not in self.values
            case Operator.GREATER | Operator.LESS:
                if value is None or not _NUMBER.fullmatch(value):
                    return False
                wanted = int(self.values[0])
                return int(value) > wanted if self.operator is Operator.GREATER else int(value) < wanted

    def _holds_among(self, values: Collection[str]) -> bool:
        """Return whether the condition holds for a fact that has any number of values at once."""
        match self.operator:
            case Operator.EXISTS:
                return bool(values)
            case Operator.MISSING:
                return not values
            case Operator.EQUALS | Operator.IN:
                return any(value in values for value in self.values)
            case Operator.NOT_EQUALS | Operator.NOT_IN:
                return not any(value in values for value in self.values)
            case Operator.GREATER | Operator.LESS:
                return False

    def __str__(self) -> str:
        match self.operator:
            case Operator.EXISTS:
                return self.key
            case Operator.MISSING:
                return f"!{self.key}"
            case Operator.IN | Operator.NOT_IN:
                return f"{self.key} {self.operator} ({','.join(self.values)})"
            case _:
                return f"{self.key}{self.operator}{self.values[0]}"


@dataclass(frozen=True)
class Selector:
    """Requirements that must all hold."""

    requirements: tuple[Requirement, ...] = ()

    def matches(self, facts: Mapping[str, str], groups: Collection[str] = ()) -> bool:
        """Return whether every requirement holds for a device with these facts, in these groups."""
        return all(requirement.holds(facts, groups) for requirement in self.requirements)

    def exactly(self, key: str) -> frozenset[str] | None:
        """Return the values that `key` must have one of, or None when any is possible."""
        wanted = [set(r.values) for r in self.requirements if r.key == key and r.operator in _EXACT]
        return frozenset(set.intersection(*wanted)) if wanted else None

    def named(self, key: str) -> tuple[frozenset[str], ...]:
        """Return, for each requirement that `key` has one of some values, these values. Each holds for every device that matches."""
        return tuple(frozenset(r.values) for r in self.requirements if r.key == key and r.operator in _EXACT)

    def asks_for_models(self) -> bool:
        """Return whether a requirement is on `model.<name>`."""
        return any(requirement.key.startswith(MODEL_PREFIX) for requirement in self.requirements)

    def asks_for_health(self) -> bool:
        """Return whether a requirement is on `health`."""
        return any(requirement.key == HEALTH for requirement in self.requirements)

    def asks_for_groups(self) -> bool:
        """Return whether a requirement is on `group`."""
        return any(requirement.key == GROUP for requirement in self.requirements)

    def asks_for_any_group(self) -> bool:
        """Return whether a requirement asks if a device is in any group at all."""
        return any(r.key == GROUP and r.operator in (Operator.EXISTS, Operator.MISSING) for r in self.requirements)

    def groups(self) -> frozenset[str]:
        """Return the groups that it names."""
        named = (r for r in self.requirements if r.key == GROUP and r.operator in _NAMING)
        return frozenset(value for requirement in named for value in requirement.values)

    def __str__(self) -> str:
        return ",".join(str(requirement) for requirement in self.requirements)


_EXACT: Final = (Operator.EQUALS, Operator.IN)
_NAMING: Final = (*_EXACT, Operator.NOT_EQUALS, Operator.NOT_IN)


@lru_cache(maxsize=512)
def parse_selector(text: str) -> Selector:
    """Return the selector that `text` writes. Raises BadSelectorError naming the place. What was read is kept."""
    if len(text) > MAX_SELECTOR_CHARS:
        raise BadSelectorError(
            f"the selector has {len(text)} characters, more than {MAX_SELECTOR_CHARS}", next_step=_HELP
        )
    tokens = _Tokens(text)
    if tokens.is_done():
        return Selector()
    requirements = [_requirement(tokens)]
    while not tokens.is_done():
        tokens.expect(",")
        requirements.append(_requirement(tokens))
    return Selector(tuple(requirements))


def facts_of(device: DeviceFacts) -> dict[str, str]:
    """Return what selectors compare: labels, overlaid by the reserved facts."""
    facts = {key: value for key, value in device.labels.items() if not is_reserved(key)}
    facts |= {"id": device.id, "profile": device.profile, "arch": device.arch, "status": device.status.value}
    if device.free_mb is not None:
        facts["free_mb"] = str(device.free_mb)
    if device.is_suspect:
        facts[SUSPECT] = ""
    if device.health:
        facts[HEALTH] = device.health
    facts |= {f"{MODEL_PREFIX}{name}": version for name, version in device.models.items()}
    return facts


def is_reserved(key: str) -> bool:
    """Return whether a label may not have this key."""
    return key in RESERVED or key.startswith(MODEL_PREFIX)


def is_label_key(key: str) -> bool:
    """Return whether a label may have this key."""
    return _KEY.fullmatch(key) is not None and not is_reserved(key)


def check_labels(labels: Mapping[str, str]) -> dict[str, str]:
    """Return the labels when every key and value is allowed. Raises BadLabelError."""
    if len(labels) > MAX_LABELS:
        raise BadLabelError(
            f"{len(labels)} labels are more than the {MAX_LABELS} that a device can have",
            next_step="leave some of them out, or remove others first (key-)",
        )
    for key, value in labels.items():
        if not _KEY.fullmatch(key):
            raise BadLabelError(f"{key!r} is not a label key", next_step="use letters, digits, '.', '_' and '-'")
        if is_reserved(key):
            raise BadLabelError(
                f"{key!r} is a fact of every device and cannot be a label", next_step="choose another key"
            )
        if not _VALUE.fullmatch(value):
            raise BadLabelError(
                f"{value!r} cannot be the value of label {key!r}",
                next_step="use up to 127 letters, digits, '.', '_', '+', '/' and '-', beginning and ending with one of the first two",
            )
    return dict(labels)


class _Tokens:
    """The words and signs of a selector, with their places."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._items: list[tuple[str, int]] = []
        self._next = 0
        at = 0
        while at < len(text.rstrip()):
            found = _TOKEN.match(text, at)
            assert found is not None, "the token pattern takes any character"
            self._items.append((found.group("sign") or found.group("word"), found.start(found.lastgroup or 0)))
            at = found.end()

    def is_done(self) -> bool:
        return self._next >= len(self._items)

    def peek(self) -> str:
        return "" if self.is_done() else self._items[self._next][0]

    def take(self) -> str:
        token = self.peek()
        self._next += 1
        return token

    def expect(self, sign: str) -> None:
        if self.peek() != sign:
            raise self.error(f"expected {sign!r}")
        self.take()

    def word(self, pattern: re.Pattern[str], what: str) -> str:
        token = self.peek()
        if not token or not pattern.fullmatch(token):
            raise self.error(f"expected {what}")
        return self.take()

    def error(self, expected: str) -> BadSelectorError:
        if self.is_done():
            place = "at its end"
        else:
            token, at = self._items[self._next]
            place = f"at character {at + 1} ({token!r})"
        return BadSelectorError(f"the selector {self._text!r} is not valid {place}: {expected}", next_step=_HELP)


def _requirement(tokens: _Tokens) -> Requirement:
    if tokens.peek() == "!":
        tokens.take()
        return Requirement(tokens.word(_KEY, "a label key"), Operator.MISSING)
    key = tokens.word(_KEY, "a label key")
    sign = tokens.peek()
    if sign in ("", ","):
        return Requirement(key, Operator.EXISTS)
    if sign in ("=", "==", "!="):
        tokens.take()
        value = "" if tokens.peek() in ("", ",") else tokens.word(_VALUE, "a value")
        return Requirement(key, Operator.NOT_EQUALS if sign == "!=" else Operator.EQUALS, (value,))
    if sign in (">", "<"):
        tokens.take()
        return Requirement(key, Operator(sign), (tokens.word(_NUMBER, "a whole number"),))
    if sign in ("in", "notin"):
        tokens.take()
        return Requirement(key, Operator(sign), _value_list(tokens))
    raise tokens.error("expected =, !=, in, notin, > or <")


def _value_list(tokens: _Tokens) -> tuple[str, ...]:
    tokens.expect("(")
    values = ["" if tokens.peek() in (",", ")") else tokens.word(_VALUE, "a value")]
    while tokens.peek() == ",":
        tokens.take()
        values.append("" if tokens.peek() in (",", ")") else tokens.word(_VALUE, "a value"))
    tokens.expect(")")
    return tuple(dict.fromkeys(values))
