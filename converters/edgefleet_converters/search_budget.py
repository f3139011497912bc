"""How long a search may take, and how it is asked to end: it then keeps the best candidate found (ADR 0090).

A second of the budget is a second of a step, or of its processor time where that is less, as on a busy machine: that makes a
search slower and not worse. A file in the output folder (`STOP_NAME`) asks the search of every profile to end.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edgefleet_converters.recipe import CandidateSpec

STOP_NAME: Final = "end-search"
DEFAULT_S: Final = 60.0
DEFAULT_BYTES: Final = 15_000_000
"""A source of at most so many bytes has `DEFAULT_S`; a larger one in proportion."""
EXPLORED: Final = "after the choice, "
"""Begins how a search ended that was only exploring by then: what it offers would be the same with more time."""
_BUSY: Final = 4.0
_THREADS: Final = 2


class SearchEndedError(Exception):
    """A step was ended because the search is over. Not an error of the conversion."""


@dataclass(frozen=True)
class SearchBudget:
    """The budget of one profile's search. spent_s: says how many seconds the job's steps took so far.

    seconds: that the search may take from `start_s` on. stop: exists once somebody has asked the search to end.
    """

    seconds: float
    start_s: float
    spent_s: Callable[[], float]
    stop: Path | None = None

    def left_s(self) -> float:
        """Return how many seconds are left."""
        return self.seconds - (self.spent_s() - self.start_s)

    def is_asked(self) -> bool:
        """Say whether the search was asked to end."""
        return self.stop is not None and self.stop.exists()

    def ended(self) -> str:
        """Return in words how the search ended; empty while it goes on."""
        if self.is_asked():
            return "the search was ended on request"
        return f"the search ended after {self.seconds:g} s" if self.left_s() <= 0 else ""

    def step_limits(self) -> tuple[int, float]:
        """Return what one more step may take: processor seconds of its threads, and seconds on a busy machine."""
        left = max(0.5, self.left_s())
        return int(_THREADS * left) + 1, _BUSY * left


def counted_s(wall_s: float, cpu_s: float) -> float:
    """Return the seconds that a step counts for: those of its processor time, at least a quarter and at most all that passed."""
    return max(min(wall_s, cpu_s), wall_s / _BUSY)


def budget_s(given: float | None, source_bytes: int) -> float:
    """Return the seconds of a search: as given, else by the size of the source."""
    return DEFAULT_S * max(1.0, source_bytes / DEFAULT_BYTES) if given is None else given


def is_plain(spec: CandidateSpec) -> bool:
    """Say whether a candidate is made quickly and passes nearly always: what a search that ran out of time falls back on."""
    return spec.method in ("none", "float16") or (spec.method == "weights" and spec.weight_bits == 16)
