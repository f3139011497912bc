"""Reads a document with the models of a spec, and says all that is wrong with it at once: where, and what was expected. Pure.

pydantic stops looking at an object as a whole once one of its fields is wrong. So what is wrong is noted and marked as spoilt,
and the document is read again, until nothing new is found: a mistake never hides another one.
"""

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from enum import StrEnum
from typing import Any, Final, TypeVar, get_args

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from edgefleet_server.rollout.spec.fields import SPOILT, Advice, Loc, Mistake, Part, in_words, place, shown, words

P = TypeVar("P", bound=Part)
C = TypeVar("C")

MAX_ERRORS: Final = 100
_MAX_DEPTH: Final = 16
"""No place in a spec is deeper; what lies below is left as it is."""
_MAX_ROUNDS: Final = 16
"""Each round goes at least one level up in a document, so they end long before."""


def read(kind: type[P], document: Any) -> tuple[P | None, list[Mistake]]:
    """Return a document as a model, and what is wrong with it; None when it is no object. Fields in error are spoilt."""
    try:
        return kind.model_validate(document), []
    except ValidationError:
        document = _copy(document)
    found: list[Mistake] = []
    for _ in range(_MAX_ROUNDS):
        try:
            return kind.model_validate(document), found
        except ValidationError as refusal:
            for error in refusal.errors(include_url=False):
                loc = error["loc"]
                found.append((loc, _message(kind, error)))
                if not loc:
                    return None, found
                _spoil(kind, document, loc, is_unknown=error["type"] == "extra_forbidden")
    return None, found


def told(kind: type[Part], mistakes: Iterable[Mistake]) -> list[dict[str, str]]:
    """Return mistakes as a refusal lists them: in the order of the fields, unknown ones first, a hundred at most."""
    ordered = sorted(mistakes, key=lambda mistake: _ranks(kind, mistake[0]))
    return [{"path": place(loc), "message": message} for loc, message in ordered[:MAX_ERRORS]]


def _message(kind: type[Part], error: ErrorDetails) -> str:
    loc, value, context = error["loc"], error["input"], error.get("ctx", {})
    match error["type"]:
        case "mistake":
            return str(context["message"])
        case "value_error":
            return in_words(context["error"], value)
        case "missing":
            advice = [one.text for one in _field(kind, loc).metadata if isinstance(one, Advice)]
            return f"is missing; {advice[0]}"
        case "extra_forbidden":
            return _unknown(str(loc[-1]), tuple(_fields(_part(kind, loc[:-1]))))
        case "enum" | "string_unicode":
            known = _class_in(_field(kind, loc).annotation, StrEnum)
            return f"expected {words(tuple(known or ()), last='or')}, got {shown(value)}"
        case _:  # model_type
            return f"expected an object with {words(tuple(_fields(_part(kind, loc))))}, got {shown(value)}"


def _unknown(key: str, allowed: Sequence[str]) -> str:
    near = get_close_matches(key, allowed, n=1, cutoff=0.6) or [name for name in allowed if name.startswith(f"{key}_")]
    return f"is not a field here; {f'did you mean {near[0]}?' if near else f'expected {words(allowed)}'}"


# ---- the models and the document by place


def _fields(kind: type[Part] | None) -> Mapping[str, FieldInfo]:
    return {} if kind is None else {field.alias or name: field for name, field in kind.model_fields.items()}


def _field(kind: type[Part], loc: Loc) -> FieldInfo:
    return _fields(_part(kind, loc[:-1]))[str(loc[-1])]


def _part(kind: type[Part] | None, loc: Loc) -> type[Part] | None:
    """Return the model of the object at a place, or of the items of the list there; None for plain values."""
    for step in loc:
        if not isinstance(step, int):
            field = _fields(kind).get(step)
            kind = None if field is None else _class_in(field.annotation, Part)
    return kind


def _class_in(annotation: Any, base: type[C]) -> type[C] | None:
    """Return the first subclass of a class in an annotation, such as X in `list[X] | None`."""
    if isinstance(annotation, type) and issubclass(annotation, base):
        return annotation
    return next((found for one in get_args(annotation) if (found := _class_in(one, base)) is not None), None)


def _ranks(kind: type[Part], loc: Loc) -> list[int]:
    return [_rank(tuple(_fields(_part(kind, loc[:depth]))), step) for depth, step in enumerate(loc)]


def _rank(names: Sequence[str], step: str | int) -> int:
    if isinstance(step, int):
        return step
    return names.index(step) + 1 if step in names else 0


def _spoil(kind: type[Part], document: Any, loc: Loc, *, is_unknown: bool) -> None:
    if isinstance(loc[-1], int) and _part(kind, loc) is None:
        loc = loc[:-1]  # a list of plain values is wrong as a whole
    for step in loc[:-1]:
        document = document[step]
        if document is SPOILT:
            return
    if is_unknown:
        del document[loc[-1]]
    else:
        document[loc[-1]] = SPOILT


def _copy(value: Any, depth: int = 0) -> Any:
    """Return a copy that can be marked, with text for keys: YAML reads `5:` and `on:` as a number and as true."""
    if depth < _MAX_DEPTH and isinstance(value, dict):
        return {_key(key): _copy(one, depth + 1) for key, one in value.items()}
    if depth < _MAX_DEPTH and isinstance(value, list | tuple):
        return [_copy(one, depth + 1) for one in value]
    return value


def _key(key: Any) -> str:
    name = str(key).lower() if isinstance(key, bool) else str(key)
    return name.encode("utf-8", "backslashreplace").decode()
