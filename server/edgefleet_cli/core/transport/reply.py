"""Answers of the API twice over: the JSON object as it came, for `-o json`, and the same as a struct, for everything else.

A struct leaves out what it does not know, and an object that is printed must not: so both are kept, and the struct is made when it is
first read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Generic, TypeVar

from edgefleet_cli.core.errors import BadAnswerError

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
Document = Mapping[str, Any]
"""A JSON object that is written as it is."""


class Reply(Generic[T_co]):
    """One object. raw: as it came."""

    __slots__ = ("_kind", "_value", "raw")

    def __init__(self, raw: dict[str, Any], kind: type[T_co]) -> None:
        self.raw = raw
        self._kind = kind
        self._value: T_co | None = None

    @property
    def value(self) -> T_co:
        """Return the object as a struct. Raises BadAnswerError."""
        if self._value is None:
            self._value = struct_of(self.raw, self._kind)
        return self._value


def reply_of(value: T) -> Reply[T]:
    """Return a struct that was made here as an object to print: its fields in their order."""
    import msgspec

    return Reply(msgspec.to_builtins(value), type(value))


class Page(Generic[T_co]):
    """A list of objects. raw: the whole answer as it came, its `items` among other things."""

    __slots__ = ("raw", "replies")

    def __init__(self, raw: dict[str, Any], kind: type[T_co]) -> None:
        self.raw = raw
        self.replies: Sequence[Reply[T_co]] = [Reply(item, kind) for item in raw.get("items") or []]

    @property
    def next_cursor(self) -> str | None:
        """Return where the next page begins, None after the last."""
        return self.raw.get("next_cursor")

    @staticmethod
    def of(replies: Iterable[Reply[T]]) -> Page[T]:
        """Return a page that holds these objects and is the only one."""
        page: Page[T] = Page.__new__(Page)
        kept: Sequence[Reply[T]] = list(replies)
        page.replies = kept
        page.raw = {"items": [reply.raw for reply in kept], "next_cursor": None, "total": len(kept)}
        return page

    def __iter__(self) -> Iterator[T_co]:
        """Yield the objects as structs. Raises BadAnswerError."""
        return (reply.value for reply in self.replies)


def struct_of(raw: object, kind: type[T]) -> T:
    """Return a JSON value as a struct; fields that it does not know are ignored. Raises BadAnswerError."""
    import msgspec

    try:
        return msgspec.convert(raw, kind)
    except msgspec.ValidationError as error:
        raise BadAnswerError(
            f"this edgectl does not understand the server's {kind.__name__}",
            why=str(error),
            next_step="use the edgectl of the server's version; `edgectl version` shows both",
        ) from error
