"""How often somebody may try a password: a bucket that each try fills by one and that empties evenly. Pure."""

import math
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Bucket:
    """At most `most` tries at once, then one each `every_s` seconds."""

    most: int
    every_s: float

    def level(self, level: float, passed_s: float) -> float:
        """Return how full it is after a time. A clock that was set back empties nothing."""
        return max(0.0, min(float(self.most), level) - max(0.0, passed_s) / self.every_s)

    def wait_s(self, level: float) -> int:
        """Return the seconds until a try fits, 0: now."""
        over = level + 1 - self.most
        return 0 if over <= 0 else max(1, math.ceil(over * self.every_s))

    @property
    def life_s(self) -> float:
        """After so many seconds without a try it is empty."""
        return self.most * self.every_s


OF_NAME: Final = Bucket(20, 360.0)
"""Of one name, from everywhere, known or not: 20, then ten an hour."""
OF_CLIENT: Final = Bucket(30, 10.0)
"""Of one client (IPv6: a /64), with any names."""
