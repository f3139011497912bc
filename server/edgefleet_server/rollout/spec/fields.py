"""Kinds of fields of a spec: what may be written there, how it is read, and what JSON Schema says of it. Pure.

Reading is strict: no text for a number, no number for yes or no. What is wrong is worded here, the same for every field of a kind.
"""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any, Final, Self, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    field_validator,
    model_validator,
)
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError, core_schema

from edgefleet_server.rollout.spec.model import DURATION_UNITS, duration_text

T = TypeVar("T")
Loc = tuple[str | int, ...]
"""Where something stands: names of fields and numbers in lists."""
Mistake = tuple[Loc, str]
"""Where something is wrong, and what."""

MAX_DURATION: Final = timedelta(days=365)
SHOWN_CHARS: Final = 60
NAME: Final = "[a-z0-9][a-z0-9-]{0,30}"

_DURATION: Final = re.compile(r"([0-9]{1,9})([smhd])")


class _Spoilt:
    """The type of `SPOILT`."""


SPOILT: Final[Any] = _Spoilt()
"""Stands where a mistake was found already, while the rest of the document is looked at."""


def is_whole(part: "Part") -> bool:
    """Return whether no field of a part is spoilt, nor the part itself."""
    return part is not SPOILT and SPOILT not in part.__dict__.values()


def given(value: T | None, usual: T) -> T:
    """Return what is written in a field, `usual` where nothing is or it is wrong."""
    return usual if value is None or value is SPOILT else value


class ExpectedError(ValueError):
    """Something else was expected: the message says what; what is there instead is added to it."""


def stop_at(mistakes: Iterable[Mistake]) -> None:
    """Raise ValidationError when there are any mistakes in a value: all of them, each at its place within it."""
    found = [
        InitErrorDetails(type=PydanticCustomError("mistake", "{message}", {"message": message}), loc=loc, input=None)
        for loc, message in mistakes
    ]
    if found:
        raise ValidationError.from_exception_data("spec", found)


def _unless_spoilt(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
    return value if value is SPOILT else handler(value)


class Part(BaseModel):
    """An object of a spec. Unknown fields are refused: a misspelt bound must not become a default."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @field_validator("*", mode="wrap")
    @classmethod
    def _pass_spoilt(cls, value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        return value if value is SPOILT else handler(value)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Return the schema, with defaults as they would be written; none where it would be an object or depends on others."""
        found = handler(schema)
        properties = handler.resolve_ref_schema(found)["properties"]
        for name, field in cls.model_fields.items():
            if isinstance(field.default, Part | None):
                properties[field.alias or name].pop("default", None)
            elif isinstance(field.default, timedelta):
                properties[name]["default"] = duration_text(field.default)
        return found


class Checked(Part):
    """A part whose fields must fit each other. It is looked at again whenever some of them are spoilt."""

    def flaws(self) -> Iterator[Mistake]:
        """Yield what is wrong, with the place within the part."""
        raise NotImplementedError

    @model_validator(mode="after")
    def _fits(self) -> Self:
        stop_at(self.flaws())
        return self


Item = Annotated[T, WrapValidator(_unless_spoilt)]
"""A part in a list."""


class _NotNull:
    """Takes null out of what may be written: `T | None` in the code only means that the field may be left out."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        schema = handler(source)
        assert schema["type"] == "nullable"
        inner: CoreSchema = schema["schema"]
        return inner


Maybe = Annotated[T | None, _NotNull()]
"""A field that may be left out, and is None then. It must not be null."""


@dataclass(frozen=True, slots=True)
class Advice:
    """What to write in a field that must be there and is not."""

    text: str


@dataclass(frozen=True, slots=True, eq=False)
class Read:
    """A field that a function reads. It raises ExpectedError, ValueError or what `stop_at` raises; schema: in JSON Schema."""

    read: Callable[[Any], Any]
    schema: Mapping[str, Any]

    def __get_pydantic_core_schema__(self, _source: Any, _handler: GetCoreSchemaHandler) -> CoreSchema:
        """Return how such a field is read."""
        return core_schema.no_info_plain_validator_function(self.read)

    def __get_pydantic_json_schema__(self, _schema: CoreSchema, _handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Return what may be written there."""
        return dict(self.schema)


@dataclass(frozen=True, slots=True)
class Items:
    """`Annotated[list[X], Items("windows", most=16)]`: a list of so many. what: its items, in a message."""

    what: str
    least: int = 0
    most: int | None = None

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Return how such a list is read."""
        return core_schema.no_info_before_validator_function(self._checked, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Return what the list may hold."""
        bounds = {"minItems": self.least or None, "maxItems": self.most}
        return handler(schema) | {word: bound for word, bound in bounds.items() if bound is not None}

    def _checked(self, value: Any) -> list[Any]:
        items = listed(value)
        if len(items) < self.least or (self.most is not None and len(items) > self.most):
            span = f"{self.least} to {self.most}" if self.least else f"at most {self.most}"
            raise ValueError(f"expected {span} {self.what}, got {len(items)}")
        return items


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


TEXT: Final = Read(text, {"type": "string"})


def named(pattern: str) -> Read:
    """Return the kind of a name that matches a pattern as a whole."""
    compiled = re.compile(pattern)

    def read(value: Any) -> str:
        if compiled.fullmatch(text(value)) is None:
            raise ExpectedError(f"a name that matches {pattern}")
        return str(value)

    return Read(read, {"type": "string", "pattern": f"^{pattern}$"})


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ExpectedError("true or false")
    return value


FLAG: Final = Read(_flag, {"type": "boolean"})


def whole(least: int, most: int) -> Read:
    """Return the kind of a whole number from `least` to `most`."""

    def read(value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise ExpectedError(f"a whole number from {least} to {most}")
        return value

    return Read(read, {"type": "integer", "minimum": least, "maximum": most})


def number(above: float, most: float, *, below: bool = False) -> Read:
    """Return the kind of a number above `above` and up to `most` (with `below`: less than it)."""
    limit = f"less than {most:g}" if below else f"at most {most:g}"

    def read(value: Any) -> float:
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(_narrow(value))
        if not is_number or not above < value <= most or (below and value == most) or not above < float(value):
            raise ExpectedError(f"a number greater than {above:g} and {limit}")
        return float(value)

    bound = "exclusiveMaximum" if below else "maximum"
    return Read(read, {"type": "number", "exclusiveMinimum": above, bound: most})


def duration(*, positive: bool = False) -> Read:
    """Return the kind of a time: `90s 10m 6h 2d` or whole seconds."""
    least = 1 if positive else 0

    def read(value: Any) -> timedelta:
        return read_duration(value, positive=positive)

    seconds = {"type": "integer", "minimum": least, "maximum": MAX_DURATION // timedelta(seconds=1)}
    return Read(read, {"anyOf": [{"type": "string", "pattern": f"^{_DURATION.pattern}$"}, seconds]})


def read_duration(value: Any, *, positive: bool) -> timedelta:
    """Return a time as it is written. Raises ExpectedError."""
    seconds = _seconds(value)
    if seconds is None:
        raise ExpectedError("a duration such as 90s, 10m, 6h or 2d, or whole seconds")
    if not (1 if positive else 0) <= seconds <= MAX_DURATION.total_seconds():
        least = "at least 1s" if positive else "0s or more"
        raise ExpectedError(f"{least} and at most {MAX_DURATION.days}d")
    return timedelta(seconds=seconds)


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
        case _:
            written = repr(value) if _is_short(value) else f"{type(value).__name__}, a long one"
            return written if len(written) <= SHOWN_CHARS else f"{written[:SHOWN_CHARS]}…"


def place(loc: Loc) -> str:
    """Return a place in words: `$.stages[1].size`."""
    return "$" + "".join(f"[{step}]" if isinstance(step, int) else _step(step) for step in loc)


def _step(name: str) -> str:
    return f".{name}" if name.isidentifier() and name.isascii() else f"[{name[:SHOWN_CHARS]!r}]"


def words(names: Sequence[str], last: str = "and") -> str:
    """Return names as a list in a sentence: `a, b and c`."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} {last} {names[-1]}"


def _seconds(value: Any) -> int | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    found = _DURATION.fullmatch(value) if isinstance(value, str) else None
    return int(found[1]) * DURATION_UNITS[found[2]] if found is not None else None


def _is_short(value: Any) -> bool:
    # repr of a huge integer raises: Python refuses to write more than 4,300 digits
    return not isinstance(value, int) or value.bit_length() < 512


def _narrow(value: float) -> float:
    """Return a number as float; an integer that none can hold counts as infinite."""
    try:
        return float(value)
    except OverflowError:
        return math.inf
