"""Lists in pages as routes take and answer them: `limit`, `cursor` and `sort` in, `{items, next_cursor, total}` out. See `pages`."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from hashlib import sha256
from typing import Annotated, Any, Final, Generic, TypeVar

from fastapi import Depends, Query, Request
from pydantic import BaseModel, ConfigDict

from edgefleet_protocol.errors import EdgefleetError
from edgefleet_server.db.keyset import DEFAULT_LIMIT, BadCursorError, Page, PageRequest, cut_page, decode_cursor

T = TypeVar("T")
R = TypeVar("R")
MAX_LIMIT = 500
_FREE: Final = frozenset({"limit", "cursor", "fields", "sort"})
"""Parameters that may change from page to page, and `sort`, which is marked as what it means."""
_MARK_CHARS: Final = 10


class BadSortError(EdgefleetError):
    """The list has no such order."""

    code = "request.bad_sort"


class ListOf(BaseModel, Generic[T]):
    """The body of every list."""

    model_config = ConfigDict(defer_build=True)  # with the first list that is answered
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


def paged(*orders: str) -> Any:
    """Return the dependency of a list that has these orders, the usual one first: its `limit`, `cursor` and `sort`, parsed."""
    description = (
        f"The order of the list, `-` for downwards; with `cursor` the same as before. One of: {', '.join(orders)}."
    )

    async def page_request(
        request: Request,
        limit: Annotated[int, Query(ge=1, le=MAX_LIMIT)] = DEFAULT_LIMIT,
        cursor: Annotated[str | None, Query()] = None,
        sort: Annotated[str, Query(description=description, json_schema_extra={"enum": list(orders)})] = orders[0],
    ) -> PageRequest:
        if sort not in orders:
            raise BadSortError(
                f"this list cannot be sorted by {sort[:80]!r}",
                next_step=f"use one of these for `sort`: {', '.join(orders)}",
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
            next_step="send it with the same filters as the page before, or start again without `cursor`",
        )
    return key.removeprefix(mark)


ById = Annotated[PageRequest, paged("id")]
ByName = Annotated[PageRequest, paged("name", "-name")]
ByDevice = Annotated[PageRequest, paged("device", "-device")]
NewestFirst = Annotated[PageRequest, paged("-id")]
EitherWay = Annotated[PageRequest, paged("-id", "id")]
"""Dependencies of list routes: the orders that they have."""
