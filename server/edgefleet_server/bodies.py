"""Fields of request bodies that mean what their schema says: no text for a number, no number for yes or no.

Pydantic would take `"5"` for 5 and 1 for true. The schema that clients read says otherwise, and what one server takes by chance the
next one must take for ever.
"""

from typing import Annotated

from pydantic import AwareDatetime, BeforeValidator, Strict


def _integral(value: object) -> object:
    """Return 5 for 5.0: JSON has one kind of number, and a whole one is an integer to its schema however it is written."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Whole = Annotated[int, Strict(), BeforeValidator(_integral)]
Real = Annotated[float, Strict()]
Flag = Annotated[bool, Strict()]


def _written(value: object) -> object:
    if value is not None and not isinstance(value, str):
        raise ValueError("write it as a date and time with a time zone, such as 2026-11-25T12:00:00Z")
    if isinstance(value, str) and "T" not in value.upper():
        raise ValueError("write date and time, such as 2026-11-25T12:00:00Z")
    return value


Moment = Annotated[AwareDatetime, BeforeValidator(_written)]
