"""Reads a stream of server-sent events, line by line. Source: the HTML standard, section "Server-sent events"."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from edgefleet_cli.core.errors import BadAnswerError


def events_of(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Yield the JSON object of each event; comments and other fields are passed over, an event that breaks off is none.

    Raises BadAnswerError for data that is no JSON object.
    """
    data: list[str] = []
    for line in lines:
        if line:
            field, _, value = line.partition(":")
            if field == "data":
                data.append(value.removeprefix(" "))
        elif data:
            yield _object("\n".join(data))
            data = []


def _object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise BadAnswerError(
            "the stream of events has something else in it",
            why=f"expected a JSON object, got {text[:80]!r}",
            next_step="check the address given with --server or in `edgectl context list`",
        )
    return found
