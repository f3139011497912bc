"""Dots on a grid of braille characters, two wide and four high a character: lines finer than a terminal's cells. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

DOTS_X: Final = 2
DOTS_Y: Final = 4
BLANK: Final = " "
_BASE: Final = 0x2800
_BITS: Final = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""By row and column of a character: Unicode counts the fourth row last."""
SOLID: Final = (1,)
DASHED: Final = (1, 1, 1, 0, 0)
DOTTED: Final = (1, 0, 0)
SPARSE: Final = (1, 0, 0, 0)


@dataclass
class BrailleCanvas:
    """Dots with a layer each: a character has the layer of the last line that has a dot in it. (0, 0) is at the top left."""

    columns: int
    rows: int
    _bits: dict[tuple[int, int], int] = field(default_factory=dict)
    _layers: dict[tuple[int, int], str] = field(default_factory=dict)

    @property
    def width(self) -> int:
        """Return how many dots a row has."""
        return self.columns * DOTS_X

    @property
    def height(self) -> int:
        """Return how many dots a column has."""
        return self.rows * DOTS_Y

    def dot(self, x: int, y: int, layer: str) -> None:
        """Set a dot; one that is outside is left out."""
        if 0 <= x < self.width and 0 <= y < self.height:
            place = (x // DOTS_X, y // DOTS_Y)
            self._bits[place] = self._bits.get(place, 0) | _BITS[y % DOTS_Y][x % DOTS_X]
            self._layers[place] = layer

    def line(self, begin: tuple[int, int], end: tuple[int, int], layer: str, dash: Sequence[int] = SOLID) -> None:
        """Draw a straight line. dash: which dots are set, counted along x so that a line of many parts has even dashes."""
        (x0, y0), (x1, y1) = begin, end
        steps = max(abs(x1 - x0), abs(y1 - y0), 1)
        for step in range(steps + 1):
            x, y = round(x0 + (x1 - x0) * step / steps), round(y0 + (y1 - y0) * step / steps)
            if dash[x % len(dash)]:
                self.dot(x, y, layer)

    def row(self, number: int) -> list[tuple[str, str]]:
        """Return a row of characters as runs of one layer each: `(text, layer)`; "" is the layer of nothing."""
        runs: list[tuple[str, str]] = []
        for column in range(self.columns):
            bits, layer = self._bits.get((column, number), 0), self._layers.get((column, number), "")
            character = chr(_BASE + bits) if bits else BLANK
            if runs and runs[-1][1] == layer:
                runs[-1] = (runs[-1][0] + character, layer)
            else:
                runs.append((character, layer))
        return runs
