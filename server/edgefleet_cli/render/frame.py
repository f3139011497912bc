"""Frames on a terminal: each is drawn in the place of the one before."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from edgefleet_cli.render.output import Output

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live


class Frames:
    """What is redrawn; cropped at the height of the terminal, as what has scrolled away cannot be erased."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self.last: RenderableType | None = None

    def draw(self, frame: RenderableType, *, is_last: bool = False) -> None:
        """Show a frame in the place of the one before; the last one waits for the end, so that it is written once."""
        self.last = frame
        if not is_last:
            self._live.update(frame, refresh=True)


@contextmanager
def frames(out: Output) -> Iterator[Frames]:
    """Yield what draws frames; when the block is left, the last one stays on the terminal once, in full length."""
    from rich.console import Group
    from rich.live import Live

    live = Live(console=out.data, auto_refresh=False, transient=True)
    drawn = Frames(live)
    try:
        with live:
            try:
                yield drawn
            finally:
                live.update(Group(), refresh=True)
    finally:
        if drawn.last is not None:
            out.data.print(drawn.last)
