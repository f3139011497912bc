"""How much of the processor's clock heat or low voltage takes away, from /sys only. Nothing here raises.

Rules:
1. The kernel says so by a lower `scaling_max_freq`: what it takes away is the part of `cpuinfo_max_freq` that is not allowed. A limit
   that a person set reads the same.
2. An Intel processor says so by the time that it was throttled, as a share of the time since the reading before. The firmware of a
   Raspberry Pi says only that it throttles now: then half of the clock counts as taken, which is a guess.
3. The most that one of them says counts; -1 where none can be read.
"""

from contextlib import suppress
from pathlib import Path
from typing import Final

_PI_HELD_BACK: Final = 0b1110
"""Bits of `get_throttled`: frequency capped, throttled, soft temperature limit, all of now."""
_PI_TAKES: Final = 0.5


class ClockThrottle:
    """Reads it; times are differences to the reading before."""

    def __init__(self, sys: Path = Path("/sys")) -> None:
        """Wire the folder of the kernel's figures."""
        self._cpus = sys / "devices" / "system" / "cpu"
        self._pi = sys / "devices" / "platform" / "soc" / "soc:firmware" / "get_throttled"
        self._held: tuple[int, int] | None = None

    def ratio(self, uptime_s: int) -> float:
        """Return how much of the clock is taken away now, 0 … 1, or -1 when nothing says so."""
        return max(self._by_limit(), self._by_time(uptime_s), self._by_firmware())

    def _by_limit(self) -> float:
        found = -1.0
        for policy in self._cpus.glob("cpufreq/policy*"):
            allowed, most = _number(policy / "scaling_max_freq"), _number(policy / "cpuinfo_max_freq")
            if allowed >= 0 and most > 0:
                found = max(found, round(1.0 - min(allowed, most) / most, 4))
        return found

    def _by_time(self, uptime_s: int) -> float:
        held_ms = _number(self._cpus / "cpu0" / "thermal_throttle" / "package_throttle_total_time_ms")
        if held_ms < 0:
            return -1.0
        before, self._held = self._held, (held_ms, uptime_s)
        if before is None or uptime_s <= before[1]:
            return -1.0
        return round(min(1.0, max(0, held_ms - before[0]) / (1000 * (uptime_s - before[1]))), 4)

    def _by_firmware(self) -> float:
        bits = _number(self._pi, base=16)
        return -1.0 if bits < 0 else _PI_TAKES if bits & _PI_HELD_BACK else 0.0


def _number(path: Path, base: int = 10) -> int:
    with suppress(OSError, ValueError):
        return int(path.read_text("ascii").strip(), base)
    return -1
