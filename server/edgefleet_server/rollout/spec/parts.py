"""Parts: the objects of a spec as dataclasses that pydantic reads, that are written in normal form and described in JSON Schema. Pure.

The planner imports this module with the spec's model and starts without pydantic, so what pydantic asks for is plain dictionaries here.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, replace
from datetime import timedelta
from difflib import get_close_matches
from enum import StrEnum
from functools import cache, partial
from typing import Any, Final, TypeVar, dataclass_transform, get_args, get_type_hints

T = TypeVar("T")
Loc = tuple[str | int, ...]
"""Where something stands: names of fields and numbers in lists."""
Mistake = tuple[Loc, str]
"""Where something is wrong, and what."""

SHOWN_CHARS: Final = 60
DURATION_UNITS: Final[Mapping[str, int]] = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
"""Seconds in each unit of a duration as a spec writes it."""


@dataclass(frozen=True, slots=True, eq=False)
class _Mark:
    name: str


SPOILT: Final[Any] = _Mark("spoilt")
"""Stands where a mistake was found already, while the rest of the document is looked at."""
LATER: Final[Any] = _Mark("later")
"""Stands where nothing is written and the default depends on other fields, until all of them are read."""


def given(value: T, usual: T) -> T:
    """Return what is written in a field, `usual` where nothing is or it is wrong."""
    return usual if value is LATER or value is SPOILT else value


def is_whole(part: Any) -> bool:
    """Return whether no field of a part is spoilt, nor the part itself."""
    return part is not SPOILT and all(getattr(part, one.name) is not SPOILT for one in fields(part))


class MistakesError(ValueError):
    """A value has these mistakes, each with its place within it."""

    def __init__(self, mistakes: Sequence[Mistake]) -> None:
        super().__init__("mistakes")
        self.mistakes = mistakes


class ExpectedError(ValueError):
    """Something else was expected: the message says what; what is there instead is added to it."""


def in_words(error: ValueError, value: Any) -> str:
    """Return what a reader found wrong with a value, as a message."""
    return f"expected {error}, got {shown(value)}" if isinstance(error, ExpectedError) else str(error)


def shown(value: Any) -> str:
    """Return a value as an error message shows it."""
    match value:
        case None:
            return "nothing"
        case bool():
            return str(value).lower()
        case dict():
            return "an object"
        case list() | tuple():
            return "a list"
        case int() if value.bit_length() >= 512:  # repr of more than 4,300 digits raises
            return f"{type(value).__name__}, a long one"
        case _:
            written = repr(value)
            return written if len(written) <= SHOWN_CHARS else f"{written[:SHOWN_CHARS]}…"


def place(loc: Loc) -> str:
    """Return a place in words: `$.stages[1].size`."""
    return "$" + "".join(f"[{step}]" if isinstance(step, int) else _step(step) for step in loc)


def _step(name: str) -> str:
    return f".{name}" if name.isidentifier() and name.isascii() else f"[{name[:SHOWN_CHARS]!r}]"


def words(names: Sequence[str], last: str = "and") -> str:
    """Return names as a list in a sentence: `a, b and c`."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} {last} {names[-1]}"


class Notes:
    """What is wrong with a document, noted while it is read. at: where the reader is."""

    def __init__(self) -> None:
        self.at: list[str | int] = []
        self.found: list[Mistake] = []

    def add(self, message: str, loc: Loc = ()) -> None:
        """Note a mistake. loc: its place below where the reader is."""
        self.found.append(((*self.at, *loc), message))


@dataclass(frozen=True, slots=True)
class Numbered:
    """An item of a list that is about to be read. at: its place in the list, () where it stands without one."""

    at: Loc
    value: Any


# ---- kinds of fields


@dataclass(frozen=True, slots=True)
class Advice:
    """What to write in a field that must be there and is not."""

    text: str


@dataclass(frozen=True, slots=True, eq=False)
class Kind:
    """How a field is read and written: `Annotated[timedelta, Kind(...)]`.

    read: reads it alone; it raises ExpectedError, ValueError or MistakesError. Without it a type does: `by`, else the field's own.
    before, after: what the value goes through; written: what it may be before. write: from plain values to the normal form.
    schema: JSON Schema, or what is added to that of the type.
    """

    read: Callable[[Any], Any] | None = None
    schema: Mapping[str, Any] | None = None
    write: Callable[[Any], Any] | None = None
    by: Any = None
    before: Callable[[Any], Any] | None = None
    after: Callable[[Any], Any] | None = None
    written: Any = None

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        if self.read is not None:
            return {"type": "function-plain", "function": _call(self.read)}
        schema = handler(source) if self.by is None else handler.generate_schema(self.by)
        if self.before is not None:
            schema = {"type": "function-before", "function": _call(self.before), "schema": schema}
        if self.written is not None:
            schema["json_schema_input_schema"] = handler.generate_schema(self.written)
        if self.after is not None:
            schema = {"type": "function-after", "function": _call(self.after), "schema": schema}
        return schema

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> dict[str, Any]:
        return {**({} if self.read else handler(schema)), **(self.schema or {})}


def inside(annotation: Any) -> Iterator[Any]:
    """Yield an annotation and all that it is made of: types and kinds of fields."""
    yield annotation
    for one in (annotation.by,) if isinstance(annotation, Kind) else get_args(annotation):
        yield from inside(one)


# ---- parts


@dataclass(frozen=True, slots=True)
class _Form:
    """How a part is written. names: of fields whose name in a spec differs, None: no field there."""

    title: str
    names: Mapping[str, str | None]
    sparse: Sequence[str]
    later: Sequence[str]


@dataclass_transform(frozen_default=True)
def part(
    title: str,
    *,
    names: Mapping[str, str | None] | None = None,
    sparse: Sequence[str] = (),
    later: Sequence[str] = (),
    kw_only: bool = False,
) -> Callable[[type[T]], type[T]]:
    """Make a frozen dataclass that pydantic reads. Unknown fields are refused: a misspelt bound must not become a default.

    title: its name in JSON Schema. sparse: fields that the normal form leaves out where they have their default. later: fields that
    are LATER where nothing is written. A method `flaws` yields mistakes; some fields may be spoilt.
    """

    def made(plain: type[T]) -> type[T]:
        kind: Any = dataclass(frozen=True, slots=True, kw_only=kw_only)(plain)
        kind.__form__ = _Form(title, names or {}, sparse, later)
        kind.__pydantic_config__ = {"extra": "forbid", "title": title}
        kind.__get_pydantic_core_schema__ = classmethod(_core_schema)
        kind.__get_pydantic_json_schema__ = classmethod(_json_schema)
        return kind  # type: ignore[no-any-return]

    return made


def is_part(value: Any) -> bool:
    """Return whether a class or a value is a part of a spec."""
    return isinstance(getattr(value, "__form__", None), _Form)


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """A field of a part. attribute: its name in the code; default MISSING: it has none."""

    attribute: str
    annotation: Any
    default: Any
    is_later: bool
    is_sparse: bool
    write: Callable[[Any], Any] | None


@cache
def fields_of(kind: Any) -> Mapping[str, Entry]:
    """Return what may be written in a part, by name."""
    form, hints, found = kind.__form__, get_type_hints(kind, include_extras=True), {}
    for one in fields(kind):
        annotation, write = (
            hints[one.name],
            (piece.write for piece in inside(hints[one.name]) if isinstance(piece, Kind)),
        )
        marks = one.name in form.later, one.name in form.sparse
        if name := form.names.get(one.name, one.name):
            found[name] = Entry(one.name, annotation, one.default, *marks, next(filter(None, write), None))
    return found


def normal_form(value: Any) -> Any:
    """Return a value of a spec as JSON holds it, with every field written out, durations as text."""
    if value is None or type(value) in {str, int, float, bool}:
        return value
    if isinstance(value, timedelta):
        return duration_text(value)
    if isinstance(value, StrEnum):
        return value.value
    if isinstance(value, tuple):
        return [normal_form(one) for one in value]
    if not is_part(value):
        return value
    made = {}
    for name, entry in fields_of(value.__class__).items():
        held = getattr(value, entry.attribute)
        if not entry.is_sparse or held != entry.default:
            plain = normal_form(held)
            made[name] = plain if entry.write is None else entry.write(plain)
    return made


def duration_text(span: timedelta) -> str:
    """Return a whole number of seconds as a spec writes it, in the largest unit that is exact: `90s`, `10m`, `0s`."""
    seconds = span // timedelta(seconds=1)
    for unit in ("d", "h", "m"):
        if seconds and seconds % DURATION_UNITS[unit] == 0:
            return f"{seconds // DURATION_UNITS[unit]}{unit}"
    return f"{seconds}s"


# ---- what pydantic asks for


def _call(function: Callable[..., Any]) -> dict[str, Any]:
    return {"type": "no-info", "function": function}


def _core_schema(kind: Any, _source: Any, handler: Any) -> dict[str, Any]:
    form, hints, arguments = kind.__form__, get_type_hints(kind, include_extras=True), []
    for one in fields(kind):
        written = form.names.get(one.name, one.name)
        read: dict[str, Any] = {"type": "function-wrap", "schema": handler.generate_schema(hints[one.name])}
        read["function"] = {"type": "with-info", "function": partial(_read_field, written, hints[one.name])}
        default = LATER if one.name in form.later else one.default
        if default is not MISSING:  # a factory, as JSON Schema shows none of them: `_json_schema` does
            usual = partial(given, {} if is_part(default) else default, LATER)
            read = {"type": "default", "schema": read, "default_factory": usual, "validate_default": is_part(default)}
        alias = {"validation_alias": written} if written is not None else {"init": False}
        arguments.append({"type": "dataclass-field", "name": one.name, "schema": read, "kw_only": True, **alias})
    schema = {"type": "dataclass", "cls": kind, "fields": [one.name for one in fields(kind)], "slots": True}
    schema["schema"] = {"type": "dataclass-args", "dataclass_name": form.title, "fields": arguments}
    function = {"type": "with-info", "function": partial(_read_part, kind)}
    return {"type": "function-wrap", "function": function, "schema": schema, "ref": f"{form.title}:{id(kind)}"}


def _read_field(name: str, annotation: Any, value: Any, handler: Callable[[Any], Any], info: Any) -> Any:
    if value is SPOILT:
        return value
    notes: Notes = info.context
    notes.at.append(name)
    try:
        return handler(value)
    except ValueError as refusal:
        errors: Any = refusal  # of pydantic, which is not imported here
        (error,) = errors.errors(include_url=False)
        cause = error.get("ctx", {}).get("error")
        if isinstance(cause, MistakesError):
            for loc, message in cause.mistakes:
                notes.add(message, loc)
        elif isinstance(cause, ValueError):
            notes.add(in_words(cause, value))
        else:
            known = next(one for one in inside(annotation) if isinstance(one, type) and issubclass(one, StrEnum))
            notes.add(in_words(ExpectedError(words(tuple(known), last="or")), value))
        return SPOILT
    finally:
        notes.at.pop()


def _read_part(kind: Any, value: Any, handler: Callable[[Any], Any], info: Any) -> Any:
    notes: Notes = info.context
    if isinstance(value, Numbered):
        notes.at += value.at
        try:
            return _read_part(kind, value.value, handler, info)
        finally:
            del notes.at[len(notes.at) - len(value.at) :]
    known = fields_of(kind)
    if not isinstance(value, dict):
        notes.add(in_words(ExpectedError(f"an object with {words(tuple(known))}"), value))
        return SPOILT
    found = {_key(key): one for key, one in value.items()}
    for key in [key for key in found if key not in known]:
        notes.add(_unknown(key, tuple(known)), (key,))
    found = {key: one for key, one in found.items() if key in known}
    for name, entry in known.items():
        if name not in found and entry.default is MISSING and not entry.is_later:
            advice = next(one.text for one in inside(entry.annotation) if isinstance(one, Advice))
            notes.add(f"is missing; {advice}", (name,))
            found[name] = SPOILT
    made, wrong = handler(found), {}
    for loc, message in made.flaws() if hasattr(made, "flaws") else ():
        notes.add(message, loc)
        if not loc:
            return SPOILT
        wrong[known[loc[0]].attribute] = SPOILT
    return replace(made, **wrong) if wrong else made


def _unknown(key: str, allowed: Sequence[str]) -> str:
    near = get_close_matches(key, allowed, n=1, cutoff=0.6) or [name for name in allowed if name.startswith(f"{key}_")]
    return f"is not a field here; {f'did you mean {near[0]}?' if near else f'expected {words(allowed)}'}"


def _key(key: Any) -> str:
    """Return a key as text: YAML reads `5:` and `on:` as a number and as true."""
    name = str(key).lower() if isinstance(key, bool) else str(key)
    return name.encode("utf-8", "backslashreplace").decode()


def _json_schema(kind: Any, schema: Any, handler: Any) -> dict[str, Any]:
    """Return the schema, with defaults as they would be written; none where it would be an object or depends on others."""
    found: dict[str, Any] = handler(schema)
    properties = handler.resolve_ref_schema(found)["properties"]
    for name in properties.keys() - fields_of(kind).keys():
        del properties[name]
    for name, entry in fields_of(kind).items():
        is_plain = entry.default not in {MISSING, None, LATER, ()} and not is_part(entry.default)
        is_said = not entry.is_sparse or isinstance(entry.default, bool | StrEnum)
        if is_plain and is_said and not entry.is_later and entry.write is None:
            properties[name]["default"] = normal_form(entry.default)
    return found
