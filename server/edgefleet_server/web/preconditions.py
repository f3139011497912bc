"""What a caller may make a write depend on: `If-Match` (only what it saw) and `dry_run` (only tell).

- A tag names what the writes of a resource can change, not all of its representation: a device that reports new figures keeps its tag,
  else nobody could ever change it. So tags serve `If-Match` and never `If-None-Match` (ADR 0047).
- A dry run does the whole write in one transaction and takes that back: what it answers, and what it refuses, is what would happen.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from typing import Annotated, Any, Final

from fastapi import Depends, Header, Query, Request, Response

from edgefleet_protocol.errors import EdgefleetError
from edgefleet_server.db.database import Database

_TAG_CHARS: Final = 32


class PreconditionFailedError(EdgefleetError):
    """The object has changed since the caller read it."""

    code = "request.precondition_failed"
    default_next_step = "read it again, and send the new ETag in If-Match"


class _TakenBackError(Exception):
    """Ends the transaction of a dry run."""


def tag_of(*parts: Any) -> str:
    """Return the entity tag of what can be changed: parts are JSON values, dates as they print."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return f'"{sha256(text.encode()).hexdigest()[:_TAG_CHARS]}"'


class Expected:
    """What a request says in `If-Match`; without it anything goes."""

    def __init__(self, header: str | None) -> None:
        """Read the header."""
        self._tags = None if header is None else {tag.strip() for tag in header.split(",")}

    def check(self, tag: Callable[[], str]) -> None:
        """Raise PreconditionFailedError unless the request was made for this state. tag: asked for only when it matters."""
        if self._tags is None:
            return
        now = tag()  # raises when there is no such thing
        if "*" not in self._tags and now not in self._tags:
            raise PreconditionFailedError(f"it was changed since it was read: its ETag is {now} now")


async def _expected(
    if_match: Annotated[
        str | None, Header(max_length=1024, description="Act only while the resource has one of these ETags.")
    ] = None,
) -> Expected:
    return Expected(if_match)


IfMatch = Annotated[Expected, Depends(_expected)]
"""Dependency of a writing route: check it inside the transaction that writes."""


async def _dry_run(
    request: Request, dry_run: Annotated[bool, Query(description="Only tell what would happen; write nothing.")] = False
) -> bool:
    request.state.is_dry_run = dry_run
    return dry_run


DryRun = Annotated[bool, Depends(_dry_run)]
"""Dependency of a writing route: whether only to tell."""


@contextmanager
def acting(db: Database, *, dry_run: bool) -> Iterator[None]:
    """Do what is inside; in a dry run as one transaction that is taken back in the end. Refusals leave as they are."""
    if not dry_run:
        yield
        return
    try:
        with db.session():
            yield
            raise _TakenBackError
    except _TakenBackError:
        return


def put_tag(response: Response, tag: str) -> None:
    """Tell a resource's tag."""
    response.headers["etag"] = tag


def put_location(response: Response, path: str) -> None:
    """Tell where the new resource is; path: below the API's prefix."""
    response.headers["location"] = f"/api/v1{path}"
