"""Charts in the colours of a terminal. Colours are those of its palette, so that light and dark ones both show them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from edgefleet_cli.render.braille_chart import FRAME, HEIGHT, LIMIT, LINES, MARK, TITLE, Chart, chart_rows
from edgefleet_cli.render.output import Output, visible
from edgefleet_cli.render.width import PIPED_TABLE_WIDTH, UNBOUNDED

if TYPE_CHECKING:
    from rich.text import Text

STYLES: Final[Mapping[str, str]] = {
    **dict(zip(LINES, ("bold blue", "default", "magenta", "cyan", "yellow"), strict=True)),
    LIMIT: "red",
    MARK: "yellow",
    FRAME: "dim",
    TITLE: "bold",
}
WIDEST: Final = 120


def chart_text(chart: Chart, width: int, height: int = HEIGHT) -> Text:
    """Return a chart as text of so many columns; without a line where nothing was measured."""
    from rich.text import Text

    text = Text(no_wrap=True, overflow="crop")
    for number, row in enumerate(chart_rows(chart, width, height)):
        text.append("\n" if number else "")
        for run, kind in row:
            text.append(visible(run), STYLES.get(kind, ""))
    return text


def show_chart(out: Output, chart: Chart) -> bool:
    """Write a chart that fits; tell whether there was anything to draw."""
    columns = out.data.width
    width = min(columns - 1, WIDEST) if columns < UNBOUNDED else PIPED_TABLE_WIDTH
    text = chart_text(chart, width)
    if not text.plain:
        return False
    out.data.print(text, soft_wrap=True)
    return True
