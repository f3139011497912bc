"""The JSON objects in a stream of server-sent events."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
from httpx_sse import EventSource, SSEError

from edgefleet_cli.core.errors import BadAnswerError


def events_of(response: httpx.Response) -> Iterator[dict[str, Any]]:
    """Yield the JSON object of each event that has data; an event that breaks off is none.

    Raises BadAnswerError for an answer that is no event stream and for data that is no JSON object.
    """
    try:
        for event in EventSource(response).iter_sse():
            if event.data:
                yield _object(event.data)
    except SSEError as error:  # a kind of TransportError, which would say that the server is away
        raise _bad(
            f"expected text/event-stream, got {response.headers.get('content-type', 'no content type')!r}"
        ) from error


def _object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise _bad(f"expected a JSON object, got {text[:80]!r}")
    return found


def _bad(why: str) -> BadAnswerError:
    return BadAnswerError(
        "the stream of events has something else in it",
        why=why,
        next_step="check the address given with --server or in `edgectl context list`",
    )
