"""Figures and times as short text for tables."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from edgefleet_terms.device_figures import milliseconds_text, size_text

_DIGEST = re.compile(r"[0-9a-f]{64}")
_SAME = 1e-6
_MINUTE_S, _HOUR_S, _DAY_S = 60, 3600, 86400


def text(value: Any) -> str:
    """Return a cell's text: `-` for nothing, yes/no for booleans."""
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return digits(value, 4)
    return str(value)


def digits(value: float, count: int) -> str:
    """Return a number to so many digits; a large one whole, never as a power of ten."""
    return f"{value:.{count}g}" if abs(value) < 10**count - 0.5 else f"{value:.0f}"


def size(value: Any) -> str:
    """Return bytes in binary units, `1.2 MiB`, as the pages do; `-` for what is no size, as a device's -1 for "not readable"."""
    if not isinstance(value, int | float) or value < 0:
        return "-"
    return size_text(value)


def ratio(value: Any) -> str:
    """Return a ratio with two decimals."""
    return f"{value:.2f}" if isinstance(value, int | float) else "-"


def milliseconds(value: Any) -> str:
    """Return milliseconds with a precision that suits their size."""
    if not isinstance(value, int | float):
        return "-"
    return milliseconds_text(value)


def predicted(estimate: Any, quantity: str, show: Callable[[Any], str]) -> str:
    """Return `12.1 ms ±20 %` for a figure of an estimate, why there is none, or `-` without an estimate."""
    if not isinstance(estimate, dict) or not estimate:
        return "-"
    figure = estimate.get(quantity)
    if not isinstance(figure, dict):
        return f"no estimate: {counted(estimate.get('models', 0), 'model')} reported"
    return f"{show(figure.get('value'))} {share(figure.get('error'))}"


def share(error: Any) -> str:
    """Return `±20 %` for a relative error."""
    return f"±{error * 100:.0f} %" if isinstance(error, int | float) else "-"


def metric(value: Any) -> str:
    """Return `top1 0.978 (0.2 points lost)` for a bundle's metric, or how much better it is than the source; `not measured` where only
    random input judged it. Of an error, such as mae, a loss is `0.0040 worse`.
    """
    if not isinstance(value, dict) or not isinstance(value.get("value"), int | float):
        return "-"
    if value.get("is_measured") is False:
        return "not measured"
    return f"{value.get('name', 'metric')} {value['value']:.4f}{_change(value)}"


def _change(value: dict[str, Any]) -> str:
    drop, baseline = value.get("drop"), value.get("baseline")
    if not isinstance(drop, int | float) or baseline == 0:  # an error against the source's own answers is the loss
        return ""
    if baseline is None or abs(baseline - value["value"] - drop) < _SAME:
        points = f"{abs(drop) * 100:.1f}"
        return f" ({points} points {'lost' if drop > 0 else 'better'})" if float(points) else ""
    return f" ({abs(drop):.4f} {'worse' if drop > 0 else 'better'})" if round(drop, 4) else ""


def age(value: Any, now: datetime) -> str:
    """Return how long ago `value` (RFC 3339 text) was: `12s`, `5m`, `3h`, `2d`; `-` for anything else."""
    ahead_s = until_s(value, now)
    if ahead_s is None:
        return "-"
    seconds = max(0, int(-ahead_s))
    if seconds < _MINUTE_S:
        return f"{seconds}s"
    if seconds < _HOUR_S:
        return f"{seconds // _MINUTE_S}m"
    if seconds < _DAY_S:
        return f"{seconds // _HOUR_S}h"
    return f"{seconds // _DAY_S}d"


def named(id_: str | None, name: str) -> str:
    """Return `NAME (ID)`, or the id alone of what has no name."""
    return f"{name} ({id_})" if name else text(id_)


def counted(number: Any, noun: str) -> str:
    """Return `1 device` or `2 devices`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def duration(seconds: Any) -> str:
    """Return a span of time in the largest unit that gives it exactly, else in two: `30s`, `10m`, `1h30m`, `2d`."""
    if not isinstance(seconds, int | float):
        return "-"
    rest, words = max(0, round(seconds)), []
    for unit, length_s in (("d", _DAY_S), ("h", _HOUR_S), ("m", _MINUTE_S), ("s", 1)):
        count, rest = divmod(rest, length_s)
        if count:
            words.append(f"{count}{unit}")
    return "".join(words[:2]) or "0s"


def until_s(value: Any, now: datetime) -> float | None:
    """Return the seconds until `value` (RFC 3339 text), negative when it is past; None for anything else."""
    try:
        then = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return None
    return ((then if then.tzinfo else then.replace(tzinfo=UTC)) - now).total_seconds()


def moment(value: Any) -> str:
    """Return a time of the API as `2026-01-03 12:00:00`."""
    return text(value)[:19].replace("T", " ")


def pairs(value: Any) -> str:
    """Return `k=v,k2=v2` for a mapping, sorted by key; inner mappings are flattened, digests shortened."""
    if not isinstance(value, dict) or not value:
        return "-"
    return ",".join(_pair(str(key), item) for key, item in sorted(value.items()))


def _pair(key: str, item: Any) -> str:
    if isinstance(item, dict):
        return pairs(item)
    return f"{key}={item[:12] if isinstance(item, str) and _DIGEST.fullmatch(item) else item}"


def flat_fields(value: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Return dotted names and texts of a nested object; a list becomes one text."""
    if isinstance(value, dict):
        return [
            pair for key, item in value.items() for pair in flat_fields(item, f"{prefix}.{key}" if prefix else str(key))
        ]
    if isinstance(value, list):
        return [(prefix, ", ".join(text(item) for item in value))]
    return [(prefix, text(value))]


def error_text(error_class: str | None, reason: str | None) -> str:
    """Return `class: reason` for what a device reports of one model, empty when nothing is wrong."""
    return ": ".join(word for word in (error_class, reason) if word)
