"""How the demo talks: numbered steps of short lines, and a line about what is going on now where a terminal can take it back."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from edgefleet_cli.render.output import Output, visible

STEPS = 6
MAX_WIDTH = 100
_MIN_WIDTH = 40
_INDENT = " " * 4
Note = Callable[[str], None]


def show_step(out: Output, number: int, title: str, *details: str, steps: int = STEPS) -> None:
    """Write one step: what was done, then what came of it, each in lines that fit the terminal."""
    width = max(_MIN_WIDTH, min(out.remarks.width - 1, MAX_WIDTH))
    for line in lines(number, title, details, width, steps):
        out.note(line)


def lines(number: int, title: str, details: tuple[str, ...], width: int, steps: int = STEPS) -> list[str]:
    """Return the lines of one step, none longer than `width` unless a single word is."""
    wrapped = _wrapped(title, width, f"{number}/{steps} ", _INDENT)
    for detail in details:
        wrapped += _wrapped(detail, width, _INDENT, _INDENT + "  ")
    return wrapped


def _wrapped(text: str, width: int, first: str, later: str) -> list[str]:
    return textwrap.wrap(
        text, width, initial_indent=first, subsequent_indent=later, break_long_words=False, break_on_hyphens=False
    )


@contextmanager
def passing(out: Output) -> Iterator[Note]:
    """Yield a function that shows one line about now; it is gone afterwards, and elsewhere than on a terminal never shown."""
    if out.quiet or not out.remarks.is_terminal:
        yield lambda _: None
        return
    from rich.text import Text

    with out.remarks.status("") as status:
        yield lambda message: status.update(Text(visible(message), overflow="ellipsis", no_wrap=True))
