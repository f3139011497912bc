"""How long to wait for an answer, learnt from those that came (RFC 6298 §2). Pure; seconds in and out.

There are no samples of retransmissions to leave out (Karn's rule): each request has a number of its own, and its answer names it.
"""

from dataclasses import dataclass

SMOOTHING = 1 / 8
SPREADING = 1 / 4
SPREADS = 4
UNKNOWN_S = 1.0
"""Before the first answer (RFC 6298, 2.1)."""
LONGEST_S = 60.0
"""RFC 6298 (2.5) asks for a bound of a minute or more."""


@dataclass(frozen=True, slots=True)
class RoundTrip:
    """The smoothed round trip and its mean deviation; `smoothed_s` is None before the first answer."""

    smoothed_s: float | None = None
    spread_s: float = 0.0

    def seen(self, sample_s: float) -> "RoundTrip":
        """Return the estimate with one more answer. sample_s: from the request to its first answer, at least 0."""
        if self.smoothed_s is None:
            return RoundTrip(sample_s, sample_s / 2)
        spread_s = (1 - SPREADING) * self.spread_s + SPREADING * abs(self.smoothed_s - sample_s)
        return RoundTrip((1 - SMOOTHING) * self.smoothed_s + SMOOTHING * sample_s, spread_s)

    def timeout_s(self, shortest_s: float) -> float:
        """Return after how long without an answer one is not to be expected any more, from `shortest_s` to a minute."""
        expected_s = UNKNOWN_S if self.smoothed_s is None else self.smoothed_s + SPREADS * self.spread_s
        return min(max(expected_s, shortest_s), LONGEST_S)
