"""The entries of an audit trail as a file, one JSON object a line: fetched from the server, gone on with, read again."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from edgefleet_cli.audit.errors import TrailNotProvenError
from edgefleet_cli.core.errors import UnreadableFileError, UsageError
from edgefleet_terms.audit_chain.hash_chain import BadLineError, ChainedEntry, entry_of

if TYPE_CHECKING:
    from edgefleet_cli.core.transport.api_client import ApiClient

LINES = "application/octet-stream"
AT_ONCE = 50_000
_TAIL_BYTES = 64 * 1024
_BEGIN = b'{"action":'


def fetch_entries(api: ApiClient, sink: BinaryIO, after: int, advance: Callable[[int], None]) -> int:
    """Write the entries behind a place to a file; return the number of the last one there is. Only whole lines are written."""
    while True:
        count, left = 0, b""
        for piece in api.download("/audit/entries", LINES, after=after, limit=AT_ONCE):
            end = piece.rfind(b"\n") + 1
            if end:
                whole = left + piece[:end]
                sink.write(whole)
                lines = whole.count(b"\n")
                count, left = count + lines, piece[end:]
                after = _number_of(whole[whole.rfind(b"\n", 0, -1) + 1 :], after + lines)
                advance(lines)
            else:
                left += piece
        if count < AT_ONCE:
            return after


def _number_of(line: bytes, about: int) -> int:
    try:
        return entry_of(line).n
    except BadLineError as error:
        raise TrailNotProvenError(
            f"what the server has as entry {about} or so is none",
            why=str(error),
            next_step="it was changed in the database: an export of before says what stood there",
        ) from error


def last_number(file: Path) -> int:
    """Return the number of the last whole entry of an export, 0 of none, and cut off what an interrupted one left of the next.

    Raises UnreadableFileError, UsageError.
    """
    try:
        with file.open("r+b") as stream:
            length = stream.seek(0, io.SEEK_END)
            stream.seek(max(0, length - _TAIL_BYTES))
            tail = stream.read()
            end = tail.rfind(b"\n") + 1
            if not end and length and (length >= _TAIL_BYTES or not tail.startswith(_BEGIN)):
                raise _not_an_export(file, "it has no line of one")
            last = entry_of(tail[tail.rfind(b"\n", 0, end - 1) + 1 : end]).n if end else 0
            stream.truncate(length - len(tail) + end)
            return last
    except FileNotFoundError:
        return 0
    except OSError as error:
        raise _unreadable(file, error) from error
    except BadLineError as error:
        raise _not_an_export(file, str(error)) from error


def read_entries(file: Path, place: int = 0) -> Iterator[ChainedEntry]:
    """Yield the entries of an export from a place on (0 = the first). Raises UnreadableFileError, TrailNotProvenError."""
    number = place
    try:
        with file.open("rb") as stream:
            for line in islice(stream, place, None):
                number += 1
                yield entry_of(line)
    except OSError as error:
        raise _unreadable(file, error) from error
    except BadLineError as error:
        raise TrailNotProvenError(
            f"line {number} of {file} is no entry of an audit trail",
            why=str(error),
            next_step="it was changed or is damaged: export again, or compare with another copy",
        ) from error


def _not_an_export(file: Path, why: str) -> UsageError:
    return UsageError(
        f"{file} is not an export of an audit trail", why=why, next_step="give another --out; this file stays as it is"
    )


def _unreadable(file: Path, error: OSError) -> UnreadableFileError:
    return UnreadableFileError(
        f"cannot use {file}", why=error.strerror or str(error), next_step="check the path and its permissions"
    )
