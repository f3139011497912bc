"""Lists in pages by keyset cursor, as services and stores see them: what part is wanted, and what was found.

A cursor is the base64url of the last row's key, so that rows that come or go do not shift the pages (never an offset). It carries a
mark of the query that it continues (address, order, filters), since a key means nothing in another one. How a route takes and answers
them is `web.pagination`: a conversion worker and `server init` read lists and need no web framework.
"""

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, TypeVarTuple

from sqlalchemy import Select

from edgefleet_protocol.errors import EdgefleetError

T = TypeVar("T")
R = TypeVar("R")
Columns = TypeVarTuple("Columns")
DEFAULT_LIMIT = 50


class BadCursorError(EdgefleetError):
    """The cursor was not made by this server, or not for this query."""

    code = "request.bad_cursor"
    default_next_step = "start the list again without `cursor`"


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
