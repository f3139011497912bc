"""Lists in pages by keyset cursor: `{items, next_cursor, total}`.

A cursor is the base64url of the last row's key, so that rows that come or go do not shift the pages (never an offset). It carries a
mark of the query that it continues (address, order, filters), since a key means nothing in another one.
"""

import base64
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Annotated, Any, Final, Generic, TypeVar, TypeVarTuple

from fastapi import Depends, Query, Request
from pydantic import BaseModel
from sqlalchemy import Select

from edgefleet_protocol.errors import EdgefleetError

T = TypeVar("T")
R = TypeVar("R")
Columns = TypeVarTuple("Columns")
MAX_LIMIT = 500
DEFAULT_LIMIT = 50
_FREE: Final = frozenset({"limit", "cursor", "fields", "sort"})
"""Parameters that may change from page to page, and `sort`, which is marked as what it means."""
_MARK_CHARS: Final = 10


class BadCursorError(EdgefleetError):
    """The cursor was not made by this server, or not for this query."""

    code = "request.bad_cursor"
    default_next_step = "start the list again without `cursor`"


class BadSortError(EdgefleetError):
    """The list has no such order."""

    code = "request.bad_sort"


@dataclass(frozen=True, slots=True)
class PageRequest:
    """What part of a list is wanted: at most `limit` rows after the key `after` (None = from the start).

    sort: a key, with `-` in front the other way round, "" = as usual; is_turned: against the usual order; mark: of the query.
    """

    limit: int = DEFAULT_LIMIT
    after: str | None = None
    sort: str = ""
    is_turned: bool = False
    mark: str = ""

    def after_number(self) -> int | None:
        """Return the key as a number. Raises BadCursorError when it is none."""
        if self.after is None:
            return None
        if not self.after.isascii() or not self.after.isdigit() or len(self.after) > 18:
            raise BadCursorError("this cursor belongs to another list")
        return int(self.after)


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Rows, the key after which the next page begins (None = last page) and the number of all rows. mark: of the query."""

    items: list[T]
    next_key: str | None
    total: int
    mark: str = ""

    @property
    def next_cursor(self) -> str | None:
        """The opaque cursor of the next page."""
        return None if self.next_key is None else encode_cursor(self.mark + self.next_key)

    def of(self, items: list[R]) -> "Page[R]":
        """Return the same page with its rows as something else."""
        return Page(items, self.next_key, self.total, self.mark)


class ListOf(BaseModel, Generic[T]):
    """The body of every list."""

    items: list[T]
    next_cursor: str | None = None
    total: int

    @classmethod
    def of(cls, page: Page[R], item: Callable[[R], T]) -> "ListOf[T]":
        """Return the body of a page, each row as `item` makes it."""
        return cls(items=[item(row) for row in page.items], next_cursor=page.next_cursor, total=page.total)

    @classmethod
    def cut(cls, rows: Sequence[T], request: PageRequest, total: int, key: Callable[[T], str]) -> "ListOf[T]":
        """Return the body of a page of rows that were fetched with one more than it has."""
        page = cut_page(rows, request, total, key)
        return cls(items=page.items, next_cursor=page.next_cursor, total=page.total)

    @classmethod
    def whole(cls, rows: Sequence[T]) -> "ListOf[T]":
        """Return the body of a list that has one page."""
        return cls(items=list(rows), next_cursor=None, total=len(rows))


def encode_cursor(key: str) -> str:
    """Return the opaque cursor of a key."""
    return base64.urlsafe_b64encode(key.encode()).decode().rstrip("=")


def decode_cursor(cursor: str) -> str:
    """Return the key in a cursor. Raises BadCursorError."""
    try:
        return base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode()
    except ValueError as error:  # not base64, or not UTF-8
        raise BadCursorError("this cursor was not made by this server") from error


def cut_page(rows: Sequence[T], request: PageRequest, total: int, key: Callable[[T], str]) -> Page[T]:
    """Return the page of rows fetched with `limit + 1`."""
    items = list(rows[: request.limit])
    more = len(rows) > request.limit
    return Page(items, key(items[-1]) if more and items else None, total, request.mark)


def walked(statement: Select[*Columns], column: Any, after: Any, limit: int, *, is_down: bool) -> Select[*Columns]:
    """Return a query's first rows behind a key (None = from the start) in order of a column."""
    if after is not None:
        statement = statement.where(column < after if is_down else column > after)
    return statement.order_by(column.desc() if is_down else column).limit(limit)


def rest_of(rows: Sequence[T], request: PageRequest, key: Callable[[T], str]) -> list[T]:
    """Return the rows of a whole list behind the page before, in the order asked for; rows: by their keys, lowest first."""
    is_down, after = request.is_turned, request.after
    ordered = reversed(rows) if is_down else rows
    return [one for one in ordered if after is None or (key(one) < after if is_down else key(one) > after)]


def paged(*orders: str) -> Any:
    """Return the dependency of a list that has these orders, the usual one first: its `limit`, `cursor` and `sort`, parsed."""
    told = f"The order of the list, `-` for downwards; with `cursor` the same as before. One of: {', '.join(orders)}."

    def page_request(
        request: Request,
        limit: Annotated[int, Query(ge=1, le=MAX_LIMIT)] = DEFAULT_LIMIT,
        cursor: Annotated[str | None, Query()] = None,
        sort: Annotated[str, Query(description=told, json_schema_extra={"enum": list(orders)})] = orders[0],
    ) -> PageRequest:
        if sort not in orders:
            raise BadSortError(
                f"this list has no order {sort[:80]!r}", next_step=f"take one of these for `sort`: {', '.join(orders)}"
            )
        is_turned = sort.removeprefix("-") == orders[0].removeprefix("-") and sort != orders[0]
        asked = PageRequest(limit, None, sort, is_turned, _mark_of(request, sort))
        # many clients send none as an empty one
        return replace(asked, after=_key_of(cursor, asked.mark)) if cursor else asked

    return Depends(page_request)


def _mark_of(request: Request, sort: str) -> str:
    """Return what a cursor of this query begins with."""
    filters = sorted(one for one in request.query_params.multi_items() if one[0] not in _FREE and one[1])
    text = json.dumps([request.scope["path"], sort, filters])
    return sha256(text.encode()).hexdigest()[:_MARK_CHARS] + ":"


def _key_of(cursor: str, mark: str) -> str:
    key = decode_cursor(cursor)
    if not key.startswith(mark):
        raise BadCursorError(
            "this cursor belongs to another list, or to other filters or another order of this one",
            next_step="send it with what the page before was asked with, or start again without `cursor`",
        )
    return key.removeprefix(mark)


ById = Annotated[PageRequest, paged("id")]
ByName = Annotated[PageRequest, paged("name", "-name")]
ByDevice = Annotated[PageRequest, paged("device", "-device")]
NewestFirst = Annotated[PageRequest, paged("-id")]
EitherWay = Annotated[PageRequest, paged("-id", "id")]
"""Dependencies of list routes: the orders that they have."""
