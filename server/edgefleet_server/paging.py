"""Lists in pages by keyset cursor: `{items, next_cursor, total}`.

A cursor is the base64url of the last row's key, so that rows that come or go do not shift the pages (never an offset).
"""

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Generic, TypeVar

from fastapi import Depends, Query
from pydantic import BaseModel

from edgefleet_protocol.errors import EdgefleetError

T = TypeVar("T")
R = TypeVar("R")
MAX_LIMIT = 500
DEFAULT_LIMIT = 50


class BadCursorError(EdgefleetError):
    """The cursor was not made by this server."""

    code = "request.bad_cursor"


@dataclass(frozen=True, slots=True)
class PageRequest:
    """What part of a list is wanted: at most `limit` rows after the key `after` (None = from the start)."""

    limit: int = DEFAULT_LIMIT
    after: str | None = None

    def after_number(self) -> int | None:
        """Return the key as a number. Raises BadCursorError when it is none."""
        if self.after is None:
            return None
        if not self.after.isascii() or not self.after.isdigit() or len(self.after) > 18:
            raise BadCursorError(
                "this cursor belongs to another list", next_step="start the list again without `cursor`"
            )
        return int(self.after)


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Rows, the key after which the next page begins (None = last page) and the number of all rows."""

    items: list[T]
    next_key: str | None
    total: int

    @property
    def next_cursor(self) -> str | None:
        """The opaque cursor of the next page."""
        return None if self.next_key is None else encode_cursor(self.next_key)


class ListOf(BaseModel, Generic[T]):
    """The body of every list."""

    items: list[T]
    next_cursor: str | None = None
    total: int

    @classmethod
    def of(cls, page: Page[R], item: Callable[[R], T]) -> "ListOf[T]":
        """Return the body of a page, each row as `item` makes it."""
        return cls(items=[item(row) for row in page.items], next_cursor=page.next_cursor, total=page.total)


def encode_cursor(key: str) -> str:
    """Return the opaque cursor of a key."""
    return base64.urlsafe_b64encode(key.encode()).decode().rstrip("=")


def decode_cursor(cursor: str) -> str:
    """Return the key in a cursor. Raises BadCursorError."""
    try:
        return base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode()
    except ValueError as error:  # not base64, or not UTF-8
        raise BadCursorError(
            "this cursor was not made by this server", next_step="start the list again without `cursor`"
        ) from error


def cut_page(rows: Sequence[T], request: PageRequest, total: int, key: Callable[[T], str]) -> Page[T]:
    """Return the page of rows fetched with `limit + 1`."""
    items = list(rows[: request.limit])
    more = len(rows) > request.limit
    return Page(items, key(items[-1]) if more and items else None, total)


def _page_request(
    limit: Annotated[int, Query(ge=1, le=MAX_LIMIT)] = DEFAULT_LIMIT, cursor: Annotated[str | None, Query()] = None
) -> PageRequest:
    return PageRequest(limit, None if cursor is None else decode_cursor(cursor))


Paging = Annotated[PageRequest, Depends(_page_request)]
"""Dependency of a list route: the parsed `limit` and `cursor`."""
