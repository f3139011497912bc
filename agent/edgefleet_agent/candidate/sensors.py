"""Readings for `pressure`, from /proc and /sys. Whatever cannot be read is None; nothing here raises."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from edgefleet_agent.candidate.pressure import Readings
from edgefleet_agent.reporting.collector import memory_available_bytes


def read(proc: Path = Path("/proc"), sys: Path = Path("/sys")) -> Readings:
    """Return what the device says now."""
    available = memory_available_bytes() if proc == Path("/proc") else -1
    level, is_discharging = _battery(sys / "class" / "power_supply")
    return Readings(
        memory_stall_pct=_stall(proc / "pressure" / "memory"),
        memory_available_bytes=available if available >= 0 else None,
        temperature_celsius=max(_temperatures(sys / "class" / "thermal"), default=None),
        battery_pct=level,
        is_discharging=is_discharging,
    )


def _stall(path: Path) -> float | None:
    for line in _text(path).splitlines():
        if line.startswith("some "):
            fields = dict(field.split("=", 1) for field in line.split()[1:] if "=" in field)
            with suppress(ValueError, KeyError):
                return float(fields["avg10"])
    return None


def _temperatures(folder: Path) -> Iterator[float]:
    for zone in sorted(folder.glob("thermal_zone*")):
        text = _text(zone / "temp").strip()
        if text.lstrip("-").isdecimal():
            yield int(text) / 1000


def _battery(folder: Path) -> tuple[float | None, bool]:
    """Return the level of the emptiest battery in percent, and whether any discharges."""
    levels: list[float] = []
    is_discharging = False
    for supply in sorted(folder.glob("*")):
        text = _text(supply / "capacity").strip()
        # scope "Device": of a mouse or a headset
        if _text(supply / "type").strip() != "Battery" or _text(supply / "scope").strip() == "Device":
            continue
        if text.isdecimal():
            levels.append(float(text))
        is_discharging = is_discharging or _text(supply / "status").strip() == "Discharging"
    return (min(levels) if levels else None), is_discharging


def _text(path: Path) -> str:
    with suppress(OSError, UnicodeDecodeError):
        return path.read_text("utf-8")
    return ""
