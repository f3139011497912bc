"""Names and units of the figures that a device reports of itself and of its models: one table for pages, commands and charts. Pure.

A name is written as it begins a line ("Agent memory"). Keys are those of the API: `system` of the newest figures and of a timeline.
"""

from dataclasses import dataclass
from enum import StrEnum, auto
from typing import Final

_SIZES: Final = ("B", "KiB", "MiB", "GiB", "TiB")
_SPANS: Final = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))


class Unit(StrEnum):
    """What a figure counts."""

    SHARE = auto()
    LOAD = auto()
    CELSIUS = auto()
    BYTES = auto()
    BYTES_PER_S = auto()
    SECONDS = auto()
    COUNT = auto()
    MILLISECONDS = auto()


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure: its key, its name, what it counts. short: its name in a chart that has a title."""

    key: str
    name: str
    unit: Unit
    short: str


def _table(*rows: tuple[str, str, Unit, str]) -> dict[str, Figure]:
    return {key: Figure(key, name, unit, short) for key, name, unit, short in rows}


SYSTEM_FIGURES: Final = _table(
    ("online_ratio", "Online", Unit.SHARE, "online"),
    ("drifting_ratio", "Devices with drift", Unit.SHARE, "drifting"),
    ("cpu_ratio", "CPU", Unit.SHARE, "busy"),
    ("load_1m", "Load", Unit.LOAD, "load"),
    ("temperature_celsius", "Temperature", Unit.CELSIUS, "temperature"),
    ("throttled_ratio", "Throttled clock", Unit.SHARE, "throttled"),
    ("memory_available_bytes", "Free memory", Unit.BYTES, "free"),
    ("workers_rss_bytes", "Worker memory", Unit.BYTES, "workers"),
    ("agent_rss_bytes", "Agent memory", Unit.BYTES, "agent"),
    ("disk_free_bytes", "Free disk", Unit.BYTES, "free"),
    ("net_rx_bytes", "Network received", Unit.BYTES, "received"),
    ("net_tx_bytes", "Network sent", Unit.BYTES, "sent"),
    ("net_rx_bytes_per_s", "Network received", Unit.BYTES_PER_S, "received"),
    ("net_tx_bytes_per_s", "Network sent", Unit.BYTES_PER_S, "sent"),
    ("uptime_s", "Uptime", Unit.SECONDS, "uptime"),
)
"""Figures of the device itself, in the order in which they are shown. Counts of bytes are of one window, those a second a mean."""

MODEL_FIGURES: Final = _table(
    ("requests", "Requests", Unit.COUNT, "requests"),
    ("errors", "Errors", Unit.COUNT, "errors"),
    ("timeouts", "Timeouts", Unit.COUNT, "timeouts"),
    ("nonfinite", "Non-finite answers", Unit.COUNT, "non-finite"),
    ("crashes", "Crashes", Unit.COUNT, "crashes"),
    ("p50_ms", "Latency p50", Unit.MILLISECONDS, "p50"),
    ("p95_ms", "Latency p95", Unit.MILLISECONDS, "p95"),
    ("p99_ms", "Latency p99", Unit.MILLISECONDS, "p99"),
)
"""Figures of one model on one device, or on many."""


def figure_name(key: str) -> str:
    """Return the name of a figure; of one that is not in the tables, its key in words."""
    known = SYSTEM_FIGURES.get(key) or MODEL_FIGURES.get(key)
    return known.name if known else key.replace("_", " ")


def figure_text(key: str, value: float | int | None) -> str:
    """Return a figure with its unit; "" for what was not measured: a device reports -1 for what it cannot read."""
    known = SYSTEM_FIGURES.get(key) or MODEL_FIGURES.get(key)
    if value is None or value < 0:
        return ""
    match known.unit if known else None:
        case Unit.SHARE:
            if 0.995 <= value < 1:  # never rounded up to all
                return f"{min(value, 0.999):.1%}"
            return f"{value:.1%}" if 0 < value < 0.1 else f"{value:.0%}"
        case Unit.LOAD:
            return f"{value:.2f}"
        case Unit.CELSIUS:
            return f"{value:.0f} °C"
        case Unit.BYTES:
            return size_text(value)
        case Unit.BYTES_PER_S:
            return f"{size_text(value)}/s"
        case Unit.SECONDS:
            return span_text(value)
        case Unit.MILLISECONDS:
            return milliseconds_text(value)
        case _:
            return f"{value:.4g}" if isinstance(value, float) else str(value)


def milliseconds_text(value: float) -> str:
    """Return milliseconds with a precision that suits their size, `4.84 ms`, `96 ms`."""
    return f"{value:.2f} ms" if value < 10 else f"{value:.0f} ms"


def size_unit(count: float) -> tuple[str, int]:
    """Return the largest binary unit that a count of bytes fills, and how many bytes it has: `("MiB", 1048576)`."""
    power = 0
    while count >= 1024 ** (power + 1) and power < len(_SIZES) - 1:
        power += 1
    return _SIZES[power], 1024**power


def size_text(count: float) -> str:
    """Return a count of bytes in its largest binary unit, `1.2 MiB`. Pages, commands and reports write sizes so."""
    unit, length = size_unit(count)
    return f"{count / length:.{0 if length == 1 else 1}f} {unit}"


def span_text(seconds: float) -> str:
    """Return a span of time in its largest unit, `3 d`."""
    size, unit = next((one for one in _SPANS if seconds >= one[0]), _SPANS[-1])
    return f"{seconds / size:.0f} {unit}"
