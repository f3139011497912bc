"""What one bucket of ground truth holds, and how it adds up. Pure."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from typing import Final

import msgspec

from edgefleet_protocol.ground_truth import MAX_CLASSES, FigureSums, Truth, TruthPart, bounded

UNIT_PARTS: Final = 64
FIGURE_PARTS: Final = 1_000
MOST_CELLS: Final = 4_400
"""All pairs of 65 classes."""
MOST_FIGURES: Final = 64


class Scale(IntEnum):
    """How long the steps are in which ground truth is kept, in seconds."""

    HOUR = 3_600
    DAY = 86_400

    def begin(self, moment: datetime) -> datetime:
        """Return when the step began in which a moment lies."""
        at = int(moment.timestamp())
        return datetime.fromtimestamp(at - at % self, UTC)


KEPT: Final[Mapping[Scale, timedelta]] = {Scale.HOUR: timedelta(days=90), Scale.DAY: timedelta(days=1_825)}
"""For how long the steps of a scale are kept."""


@dataclass(frozen=True, slots=True)
class TruthSums:
    """Sums of labels. cells: by (label, answered); figures: by name, (reports, total in thousandths)."""

    labelled: int = 0
    correct: int = 0
    n: int = 0
    total: int = 0
    sizes: int = 0
    squares: int = 0
    unit: float = 1.0
    unmatched: int = 0
    late: int = 0
    repeated: int = 0
    cells: Mapping[tuple[int, int], int] = field(default_factory=dict)
    figures: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    def right(self, label: int) -> int:
        """Return how many answers of a class were right; of MAX_CLASSES, which stands for several, their cell does not say it."""
        if label < MAX_CLASSES:
            return self.cells.get((label, label), 0)
        return self.correct - sum(n for (one, answered), n in self.cells.items() if one == answered < MAX_CLASSES)


@dataclass(frozen=True, slots=True)
class Errors:
    """Errors of numbers, answer minus label: mean of their sizes, mean, root of the mean square."""

    size: float
    bias: float
    rmse: float


def errors_of(devices: Iterable[Sequence[TruthSums]]) -> Errors | None:
    """Return the mean over devices of each one's own errors, in whatever units they were counted; None without numbers."""
    own = [one for one in map(_own_errors, devices) if one is not None]
    if not own:
        return None
    size, bias, rmse = (math.fsum(some) / len(own) for some in zip(*own, strict=True))
    return Errors(size, bias, rmse)


def _own_errors(parts: Sequence[TruthSums]) -> tuple[float, float, float] | None:
    n = sum(one.n for one in parts) * UNIT_PARTS
    if not n:
        return None
    size, bias = math.fsum(one.sizes * one.unit for one in parts), math.fsum(one.total * one.unit for one in parts)
    return size / n, bias / n, math.sqrt(math.fsum(one.squares * one.unit**2 for one in parts) / n)


NOTHING: Final = TruthSums()


def sums_of(part: TruthPart, unit: float) -> TruthSums:
    """Return a part of a window's ground truth."""
    numbers = part.numbers
    return TruthSums(
        part.n,
        part.correct,
        numbers.n,
        numbers.total,
        numbers.sizes,
        numbers.squares,
        unit,
        cells={(one.label, one.answered): one.n for one in part.cells},
        figures={name: (one.n, one.total) for name, one in part.figures.items()},
    )


def odd_sums(truth: Truth) -> TruthSums:
    """Return the labels of a window that met no answer, or one again."""
    return TruthSums(unmatched=truth.unmatched, late=truth.late, repeated=truth.repeated)


def added(parts: Iterable[TruthSums]) -> TruthSums:
    """Return the sum. Of numbers in several units those in the newest, which come last, are kept: they cannot be added exactly."""
    found = list(parts)
    units = [one.unit for one in found if one.n]
    unit = units[-1] if units else 1.0
    alike = [one for one in found if one.unit == unit]
    cells: dict[tuple[int, int], int] = {}
    figures: dict[str, tuple[int, int]] = {}
    for one in found:
        for pair, n in one.cells.items():
            cells[pair] = cells.get(pair, 0) + n
        for name, (n, total) in one.figures.items():
            if name in figures or len(figures) < MOST_FIGURES:
                known = figures.get(name, (0, 0))
                figures[name] = (known[0] + n, bounded(known[1] + total))
    return TruthSums(
        sum(one.labelled for one in found),
        sum(one.correct for one in found),
        sum(one.n for one in alike),
        bounded(sum(one.total for one in alike)),
        bounded(sum(one.sizes for one in alike)),
        bounded(sum(one.squares for one in alike)),
        unit,
        sum(one.unmatched for one in found),
        sum(one.late for one in found),
        sum(one.repeated for one in found),
        cells,
        figures,
    )


class _Detail(msgspec.Struct, array_like=True, frozen=True):
    cells: tuple[tuple[int, int, int], ...] = ()
    figures: dict[str, FigureSums] = {}


def pack_detail(sums: TruthSums) -> bytes:
    """Return cells and figures as a bucket keeps them; b"" for none."""
    if not sums.cells and not sums.figures:
        return b""
    cells = tuple((label, answered, n) for (label, answered), n in sorted(sums.cells.items()))
    return msgspec.msgpack.encode(
        _Detail(cells, {name: FigureSums(*one) for name, one in sorted(sums.figures.items())})
    )


def unpack_detail(data: bytes) -> tuple[dict[tuple[int, int], int], dict[str, tuple[int, int]]]:
    """Return cells and figures of a bucket."""
    if not data:
        return {}, {}
    found = msgspec.msgpack.decode(data, type=_Detail)
    cells = {(label, answered): n for label, answered, n in found.cells}
    return cells, {name: (one.n, one.total) for name, one in found.figures.items()}
