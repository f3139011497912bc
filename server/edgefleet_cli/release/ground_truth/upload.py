"""Sends a file of labels in pieces that a request holds, waits for the devices, and adds up how they fared."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

from edgefleet_cli.core import api
from edgefleet_cli.core.errors import UsageError
from edgefleet_cli.core.session import Session
from edgefleet_cli.core.transport.reply import Reply
from edgefleet_cli.core.transport.request import part
from edgefleet_cli.render.progress import board, upload_bar

PIECE_BYTES = 1024 * 1024
PIECE_LINES = 50_000
"""As many rows as the server takes at once."""
LOOK_S = 1.0
_COUNTS = (
    *("rows", "bad", "parts", "over", "matched", "unmatched", "late", "repeated", "misfit", "refused", "pending"),
    "failed",
)


def uploaded(session: Session, model: str, text: str, *, wait_s: float) -> Reply[api.model.FeedbackUpload]:
    """Return how a whole file fared, after wait_s at most."""
    path = f"/models/{part(model)}/feedback"
    pieces = list(_pieces(text))
    if not pieces:
        raise UsageError("the file is empty", why="it has no row", next_step="begin it with device,trace_id,label")
    found: list[dict[str, Any]] = []
    firsts: list[int] = []
    with upload_bar(session.out, 1, len(text.encode())) as advance:
        for first, piece in pieces:
            reply = session.api.post(path, api.model.FeedbackIn(csv=piece), api.model.FeedbackUpload)
            found.append(reply.raw)
            firsts.append(first)
            advance(len(piece.encode()))
    until_s = session.clock.monotonic_s() + wait_s
    with board(session.out) as shown:
        while any(one["state"] == "open" for one in found) and session.clock.monotonic_s() < until_s:
            rows = sum(one["rows"] - one["bad"] for one in found)
            left = sum(one["pending"] for one in found)
            shown.update(
                "devices", f"{rows - left} of {rows} labels looked for", pct=100 * (rows - left) / max(1, rows)
            )
            session.clock.sleep(LOOK_S)
            found = [
                session.api.get(f"{path}/{one['id']}", api.model.FeedbackUpload).raw if one["state"] == "open" else one
                for one in found
            ]
    return Reply(_together(found, firsts), api.model.FeedbackUpload)


def _pieces(text: str) -> Iterator[tuple[int, str]]:
    """Yield the line before each piece's first row, and the piece: each begins with the first line. A quoted cell is never cut."""
    lines = list(io.StringIO(text, newline=""))  # the lines of the CSV reader, which also cuts at "\r"
    if len(lines) < 2:
        return
    head, piece, size, first, is_quoted = lines[0], [], 0, 1, False
    for number, line in enumerate(lines[1:], start=2):
        piece.append(line)
        size += len(line.encode())
        is_quoted ^= line.count('"') % 2 == 1
        if (size >= PIECE_BYTES or len(piece) >= PIECE_LINES) and not is_quoted:
            yield first, head + "".join(piece)
            piece, size, first = [], 0, number
    if piece:
        yield first, head + "".join(piece)


def _together(found: list[dict[str, Any]], firsts: list[int]) -> dict[str, Any]:
    """Return one answer for all pieces, with lines as the whole file numbers them. Its id is that of the last piece."""
    states = {one["state"] for one in found}
    bad = [
        {**row, "line": row["line"] + first - 1}
        for one, first in zip(found, firsts, strict=True)
        for row in one["bad_rows"]
    ]
    return {
        **found[-1],
        **{name: sum(one[name] for one in found) for name in _COUNTS},
        "state": "open" if "open" in states else "partly" if "partly" in states else "done",
        "bad_rows": bad,
        "failures": [failure for one in found for failure in one["failures"]],
    }
