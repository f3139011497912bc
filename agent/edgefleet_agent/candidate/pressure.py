"""When a candidate must give up its place: memory, heat, battery. Pure: readings and times in, a reason or none out.

1. It is suspended at once when a reading crosses its limit, and resumes only after every reading was on the good side of a *lower*
   limit (hysteresis) for `resume_s` without a break.
2. What cannot be read says nothing: it neither suspends nor keeps suspended.
3. Memory concerns every candidate, since it takes memory whatever it does; heat and battery only a shadow: nobody waits for its answers.
Source of the readings: pressure stall information (Documentation/accounting/psi.rst of the kernel);
docs/explanation/shadow-and-split.md, "Suspension".
"""

from collections.abc import Iterator
from dataclasses import dataclass

MEMORY, THERMAL, BATTERY = "memory", "thermal", "battery"
STALL_RESUME_RATIO = 0.5
MEMORY_RESUME_RATIO = 1.5
COOLER_CELSIUS = 5.0
BATTERY_MORE_PCT = 10.0


@dataclass(frozen=True, slots=True)
class Readings:
    """What the device says now. memory_stall_pct: `some avg10` of PSI. temperature_celsius: of the hottest zone. battery_pct: of the

    emptiest battery, and is_discharging. None: cannot be read, or is not there.
    """

    memory_stall_pct: float | None = None
    memory_available_bytes: int | None = None
    temperature_celsius: float | None = None
    battery_pct: float | None = None
    is_discharging: bool = False


@dataclass(frozen=True, slots=True)
class PressureLimits:
    """Above (memory available, battery: below) these a candidate is suspended; 0 = never for that reason."""

    memory_stall_pct: float = 10.0
    memory_available_bytes: int = 24 * 1024 * 1024
    temperature_celsius: float = 80.0
    battery_pct: float = 30.0
    resume_s: float = 60.0


@dataclass(frozen=True, slots=True)
class Pressure:
    """What is known from before. reasons: what it is suspended for, () = it may run. good_since_s: steady seconds."""

    reasons: tuple[str, ...] = ()
    good_since_s: float | None = None


def weighed(before: Pressure, readings: Readings, limits: PressureLimits, *, now_s: float, shadow: bool) -> Pressure:
    """Return what holds now. shadow: heat and battery count."""
    hard = tuple(_crossed(readings, limits, shadow=shadow))
    if hard:
        kept = tuple(reason for reason in before.reasons if reason not in hard)
        return Pressure((*hard, *_still(kept, readings, limits, shadow=shadow)), None)
    if not before.reasons:
        return Pressure()
    still = _still(before.reasons, readings, limits, shadow=shadow)
    if still:
        return Pressure(still, None)
    since_s = before.good_since_s if before.good_since_s is not None else now_s
    if now_s - since_s >= limits.resume_s:
        return Pressure()
    return Pressure(before.reasons, since_s)


def _crossed(readings: Readings, limits: PressureLimits, *, shadow: bool) -> Iterator[str]:
    stall, free = readings.memory_stall_pct, readings.memory_available_bytes
    if (0 < limits.memory_stall_pct <= (stall or 0.0)) or (free is not None and free < limits.memory_available_bytes):
        yield MEMORY
    if not shadow:
        return
    if 0 < limits.temperature_celsius <= (readings.temperature_celsius or -273.0):
        yield THERMAL
    level = readings.battery_pct
    if level is not None and readings.is_discharging and level < limits.battery_pct:
        yield BATTERY


def _still(reasons: tuple[str, ...], readings: Readings, limits: PressureLimits, *, shadow: bool) -> tuple[str, ...]:
    """Return those of the reasons whose readings are not on the good side of the lower limit yet."""
    eased = PressureLimits(
        memory_stall_pct=limits.memory_stall_pct * STALL_RESUME_RATIO,
        memory_available_bytes=int(limits.memory_available_bytes * MEMORY_RESUME_RATIO),
        temperature_celsius=max(0.0, limits.temperature_celsius - COOLER_CELSIUS),
        battery_pct=limits.battery_pct + BATTERY_MORE_PCT if limits.battery_pct > 0 else 0.0,
    )
    strained = set(_crossed(readings, eased, shadow=shadow))
    return tuple(reason for reason in reasons if reason in strained)
