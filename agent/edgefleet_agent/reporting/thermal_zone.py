"""The temperature of the first thermal zone, and from where on the kernel acts on it, from /sys only. Nothing here raises.

Rules:
1. From the lowest `passive` trip on the kernel takes away clock, at the lowest `critical` one it switches it off. Others drive fans.
2. A trip that nobody set does not count. Firmware may throttle earlier than the kernel, and says so nowhere here.
"""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from edgefleet_protocol.heat_limits import CRITICAL_AT, THROTTLES_AT, heat_limits

_TRIPS: Final = {"critical": CRITICAL_AT, "passive": THROTTLES_AT}


class ThermalZone:
    """Reads it."""

    def __init__(self, sys: Path = Path("/sys")) -> None:
        """Wire the folder of the kernel's figures."""
        self._zone = sys / "class" / "thermal" / "thermal_zone0"

    def celsius(self) -> float:
        """Return the temperature, -1 when it cannot be read."""
        found = _celsius(self._zone / "temp")
        return -1.0 if found is None else found

    def limits(self) -> dict[str, float]:
        """Return from where on the kernel acts, by the name of the fact; without what nobody set."""
        found: dict[str, float] = {}
        for key, at in self._trips():
            found[key] = min(at, found.get(key, at))
        return found

    def _trips(self) -> Iterator[tuple[str, float]]:
        for path in self._zone.glob("trip_point_*_type"):
            key = _TRIPS.get(_text(path))
            if key is not None:
                at = _celsius(path.with_name(f"{path.name.removesuffix('type')}temp"))
                yield from heat_limits({key: at}).items()


def _celsius(path: Path) -> float | None:
    with suppress(ValueError, OverflowError):
        return int(_text(path)) / 1000
    return None


def _text(path: Path) -> str:
    with suppress(OSError, UnicodeDecodeError):
        return path.read_text("ascii").strip()
    return ""
