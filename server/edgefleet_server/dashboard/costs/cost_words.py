"""What costs are, in words and short figures. Pure."""

from typing import Final

from edgefleet_server.costing.model import GB, JOULES_PER_KWH, CostLine, CostReport

LEAST: Final = 0.0001
"""Less money is not told apart."""
EXAMPLE: Final = """{
  "currency": "EUR",
  "down_gb": 0.09,
  "up_gb": 0.01,
  "device_hour": 0.0005,
  "kwh": 0.3,
  "conversion_hour": 0.05,
  "stored_gb_month": 0.023
}"""
"""A price file to begin with."""


def amount(value: float | None, currency: str) -> str:
    """Return money with its currency: two decimals, more digits of what is below a hundredth; `–` without a price."""
    if value is None:
        return "–"
    if 0 < value < LEAST:
        return f"less than {LEAST:.4f} {currency}"
    shown = f"{value:,.2f}" if value == 0 or value >= 0.01 else f"{value:.2g}"
    return f"{shown.replace(',', chr(0x202F))} {currency}"


def energy(line: CostLine) -> str:
    """Return energy in kilowatt-hours, `not measured` where no device could read it."""
    if line.joules is None:
        return "not measured"
    return f"{line.joules / JOULES_PER_KWH:.3g} kWh"


def energy_part(line: CostLine) -> str:
    """Return of what the energy is known, "" where there was nothing to measure."""
    if line.joules is None:
        if not line.devices:
            return ""
        return f"{line.measured_devices} of {line.devices} device{'' if line.devices == 1 else 's'} could"
    if line.measured_answers == line.answers:
        return "of all answers"
    return f"of {line.measured_answers:,} of {line.answers:,} answers".replace(",", chr(0x202F))


def headline(found: CostReport, days: int) -> tuple[str, str]:
    """Return the title of the page and the sentence below it."""
    total = found.total
    what = f"{total.device_hours:,.0f} device-hours".replace(",", chr(0x202F))
    moved = f"{_gigabytes(total.down_bytes)} to devices and {_gigabytes(total.up_bytes)} from them"
    span = f"in {days} day{'' if days == 1 else 's'}"
    if total.money is None:
        return f"{what} {span}", f"{moved}. Set prices below to see money."
    missing = [
        name
        for name, value in (
            ("downloads", total.money.down),
            ("uploads", total.money.up),
            ("device-hours", total.money.device_hours),
            ("energy", total.money.energy),
            ("conversions", total.money.conversion),
            ("storage", total.money.storage),
        )
        if value is None
    ]
    without = f" Not in it, without a price or a measurement: {', '.join(missing)}." if missing else ""
    return f"{amount(total.money.total, found.currency)} {span}", f"{what}, {moved}.{without}"


def _gigabytes(size: int) -> str:
    for unit, worth in (("GB", GB), ("MB", 1_000_000), ("kB", 1_000)):
        if size >= worth:
            return f"{size / worth:.3g} {unit}"
    return f"{size} B"
