"""From which temperature on the kernel of a device takes away clock, and at which one it switches the device off: facts of a state. Pure.

A device may claim what it likes, and a kernel reads 0 or less where nobody set one: what is no temperature of a working device is left out.
"""

from collections.abc import Mapping
from typing import Any, Final

THROTTLES_AT: Final = "throttles_at_celsius"
CRITICAL_AT: Final = "critical_at_celsius"
WORDS: Final[Mapping[str, str]] = {THROTTLES_AT: "throttles at", CRITICAL_AT: "switches off at"}
"""How a limit is named in a chart."""
HIGHEST: Final = 200


def heat_limits(facts: Mapping[str, Any]) -> dict[str, float]:
    """Return the limits among facts, in °C."""
    return {key: float(facts[key]) for key in WORDS if _is_temperature(facts.get(key))}


def _is_temperature(said: Any) -> bool:
    return isinstance(said, int | float) and not isinstance(said, bool) and 0 < said <= HIGHEST
