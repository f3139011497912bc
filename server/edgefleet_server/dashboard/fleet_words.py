"""How figures of the fleet are written: trends as points of a line, moments of charts. Pure; the templates use these as filters."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

WIDTH: Final = 72
HEIGHT: Final = 18
_EDGE: Final = 1.5


def trend_line(values: Sequence[float | None]) -> str:
    """Return the points of an SVG polyline over WIDTH × HEIGHT: oldest left, the highest at the top; what is not known is left out."""
    known = [(place, value) for place, value in enumerate(values) if value is not None]
    if not known:
        return ""
    low, high = min(value for _, value in known), max(value for _, value in known)
    step = WIDTH / max(1, len(values) - 1)
    span = high - low
    inner = HEIGHT - 2 * _EDGE

    def point(place: int, value: float) -> str:
        y = HEIGHT / 2 if span <= 0 else _EDGE + inner * (1 - (value - low) / span)
        return f"{place * step:.1f},{y:.1f}"

    points = [point(place, value) for place, value in known]
    return " ".join(points if len(points) > 1 else [f"0,{HEIGHT / 2}", f"{WIDTH},{HEIGHT / 2}"])


def epoch(seconds: float) -> str:
    """Return a moment of a chart, in seconds since 1970, in UTC to the minute."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M}"
