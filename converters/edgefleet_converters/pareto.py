"""Which candidates are beaten by none: no other is as good in every respect and better in one. Pure."""

from collections.abc import Sequence

Point = tuple[float, ...]
"""One number a respect, smaller is better: loss of the metric, bytes, latency."""


def front(points: Sequence[Point]) -> list[bool]:
    """Return for each point whether it is on the front; of equal points all are."""
    return [not any(_beats(other, point) for other in points) for point in points]


def _beats(one: Point, other: Point) -> bool:
    pairs = list(zip(one, other, strict=True))
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)
