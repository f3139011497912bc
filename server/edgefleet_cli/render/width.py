"""How wide what is shown may be, and which part of a table gives way: the one place that decides.

A table fits the terminal, or 100 columns where there is none. Each row is one line: what does not fit is cut with `…`, the widest
columns first. `-o wide` cuts nothing. Whatever is no table is never cut or folded for a pipe: there a line is a line.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgefleet_cli.core.options import Format

if TYPE_CHECKING:
    from typing import TextIO

PIPED_TABLE_WIDTH = 100
UNBOUNDED = 10_000
"""A width that nothing reaches: rich wants a number."""
GAP = 2
"""Spaces between two columns."""
ELLIPSIS = "…"
_WITHOUT_CURSOR = frozenset({"dumb", "unknown"})


def is_bounded(stream: TextIO) -> bool:
    """Tell whether lines longer than a screen would be broken: on a terminal, or where `COLUMNS` says how wide it is."""
    return stream.isatty() or "COLUMNS" in os.environ


def moves_cursor(stream: TextIO) -> bool:
    """Tell whether what was written can be drawn over: not on a terminal that calls itself `dumb`, as those within editors do."""
    return stream.isatty() and os.environ.get("TERM", "").lower() not in _WITHOUT_CURSOR


def console_width(stream: TextIO) -> int | None:
    """Return the width of a console on a stream; None: that of the terminal."""
    return None if is_bounded(stream) else UNBOUNDED


def table_width(console: int, form: Format) -> int:
    """Return the width of a table on a console that is so wide."""
    return console if console < UNBOUNDED or form is Format.WIDE else PIPED_TABLE_WIDTH


def shares(needed: Sequence[int], least: Sequence[int], width: int) -> list[int]:
    """Return the width of each column of a table of `width` characters: the widest give way first, none below its least.

    The sum stays too large where the least widths leave no other way.
    """
    given = list(needed)
    room = width - GAP * (len(given) - 1)
    while sum(given) > room:
        wide = [place for place, one in enumerate(given) if one > least[place]]
        if not wide:
            break
        given[max(wide, key=lambda place: given[place])] -= 1
    return given


def cut_runs(row: Sequence[tuple[str, str]], width: int) -> list[tuple[str, str]]:
    """Return runs of text with their styles, at most `width` cells in all; `…` stands for what was left out."""
    from rich.cells import cell_len

    kept, left = [], width
    is_longer = cell_len("".join(text for text, _ in row).rstrip()) > width
    for text, style in row:
        needed = cell_len(text)
        # a run that just fits has to end in `…` where another one follows
        kept.append((cut(f"{text} " if is_longer and needed == left else text, left), style))
        left -= needed
        if left <= 0:
            break
    return kept


def cut(text: str, width: int) -> str:
    """Return text on one line of at most `width` cells; `…` stands for what was left out."""
    from rich.cells import cell_len, set_cell_size

    line = " ".join(text.split("\n"))
    return line if cell_len(line) <= width else set_cell_size(line, width - 1).rstrip() + ELLIPSIS
