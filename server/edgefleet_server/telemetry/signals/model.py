"""Values of signals: the scales at which they are added up, and what one window counts. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final

from edgefleet_protocol.drift.histogram import SignalSums


class Scale(StrEnum):
    """Over how long answers are added up before they are judged. Public, never renamed."""

    MINUTES = "5m"
    HOUR = "1h"
    DAY = "1d"

    @property
    def seconds(self) -> int:
        """Return its length."""
        return {Scale.MINUTES: 300, Scale.HOUR: 3_600, Scale.DAY: 86_400}[self]

    @property
    def length(self) -> timedelta:
        """Return its length."""
        return timedelta(seconds=self.seconds)

    def begin(self, moment: datetime) -> datetime:
        """Return when the step began in which a moment lies."""
        at = int(moment.timestamp())
        return datetime.fromtimestamp(at - at % self.seconds, UTC)


KEPT: Final[Mapping[Scale, timedelta]] = {
    Scale.MINUTES: timedelta(days=7),
    Scale.HOUR: timedelta(days=90),
    Scale.DAY: timedelta(days=730),
}
"""For how long the steps of a scale are kept."""
STRETCH: Final = 1.25
"""A window that covers this much more than a step still counts in it: jitter and a late worker stretch windows."""


@dataclass(frozen=True, slots=True)
class CountedSignals:
    """The signals of one window that was found possible. until: the end of what they cover, covered_s seconds of it.

    packed: the same sums in their wire form, of which there is only one.
    """

    device: str
    sha256: str
    basis: str
    until: datetime
    covered_s: int
    sums: Sequence[SignalSums]
    packed: bytes

    def steps(self, now: datetime) -> list[tuple[Scale, datetime]]:
        """Return the steps in which it counts: of each scale that is no shorter than it, as long as that is kept; the day always."""
        middle = self.until - timedelta(seconds=self.covered_s / 2)
        return [
            (scale, scale.begin(middle))
            for scale in Scale
            if (self.covered_s <= scale.seconds * STRETCH or scale is Scale.DAY) and middle > now - KEPT[scale]
        ]
