"""A check of a broker, and what came of it. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Need(StrEnum):
    """How much edgefleet needs it."""

    NEEDED = "needed"
    """Without it, devices are not kept apart or messages are lost."""
    ADVISED = "advised"
    """Without it something is slower or later; docs/operate/brokers.md says what."""
    FIGURE = "figure"
    """Only measured."""


class Outcome(StrEnum):
    """What came of a check."""

    OK = "ok"
    FAILED = "failed"
    NOT_SUPPORTED = "not supported"
    NOT_RUN = "not run"


@dataclass(frozen=True, slots=True)
class Check:
    """One check. why: what edgefleet does with it; remedy: what to configure. is_slow: it has to wait for seconds."""

    name: str
    need: Need
    why: str
    remedy: str
    is_slow: bool = False


@dataclass(frozen=True, slots=True)
class Finding:
    """A check and its outcome. found: what was seen, in words. took_s: wall seconds."""

    check: Check
    outcome: Outcome
    found: str
    took_s: float = 0.0

    @property
    def is_missing(self) -> bool:
        """Whether edgefleet needs this, and it is not there."""
        return self.check.need is Need.NEEDED and self.outcome in (Outcome.FAILED, Outcome.NOT_SUPPORTED)


def is_fit(findings: Iterable[Finding]) -> bool:
    """Return whether everything that is needed is there."""
    return not any(one.is_missing for one in findings)
