"""Fields of request bodies that mean what their schema says: no text for a number, no number for yes or no.

Pydantic would take `"5"` for 5 and 1 for true. The schema that clients read says otherwise, and what one server takes by chance the
next one must take for ever.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Final

from pydantic import AwareDatetime, BeforeValidator, GetCoreSchemaHandler, Strict
from pydantic_core import CoreSchema, core_schema

MOST: Final = 2**53 - 1
LEAST: Final = -MOST
"""The whole numbers that every reader of JSON agrees on (RFC 8259 §6); any column of a database holds them."""


def _integral(value: object) -> object:
    """Return 5 for 5.0: JSON has one kind of number, and a whole one is an integer to its schema however it is written."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


@dataclass(frozen=True, slots=True)
class Whole:
    """`Annotated[int, Whole(1, 9)]`: a whole number from 1 to 9, both included, and the schema says so.

    `Field(ge=1)` behind a validator of pydantic is checked too, but its schema says `ge`, which no client knows.
    """

    least: int = LEAST
    most: int = MOST

    def __get_pydantic_core_schema__(self, _source: Any, _handler: GetCoreSchemaHandler) -> CoreSchema:
        """Return how such a number is read."""
        number = core_schema.int_schema(strict=True, ge=self.least, le=self.most)
        return core_schema.no_info_before_validator_function(_integral, number)


Real = Annotated[float, Strict()]
Flag = Annotated[bool, Strict()]


def _written(value: object) -> object:
    if value is not None and not isinstance(value, str):
        raise ValueError("write it as a date and time with a time zone, such as 2026-11-25T12:00:00Z")
    if isinstance(value, str) and "T" not in value.upper():
        raise ValueError("write date and time, such as 2026-11-25T12:00:00Z")
    return value


Moment = Annotated[AwareDatetime, BeforeValidator(_written)]
