"""Costs for eyes: a table of lines, what would save, and how each figure was computed."""

from __future__ import annotations

from edgefleet_cli.core import api
from edgefleet_cli.core.structs import replace
from edgefleet_cli.render.format import counted, digits, moment, size, text
from edgefleet_cli.render.output import Column, Output, Sheet

TOTAL = "total"


def amount(value: float | None) -> str:
    """Return money: two decimals, more digits of what is below a hundredth, `-` without a price."""
    if value is None:
        return "-"
    return f"{value:.2f}" if value == 0 or abs(value) >= 0.01 else digits(value, 2)


def energy(line: api.cost.CostLine) -> str:
    """Return the energy and of how many answers it is, or who could measure it."""
    if line.joules is None:
        return "not measured"
    part = "" if line.measured_answers == line.answers else f" of {line.measured_answers} of {line.answers} answers"
    return f"{digits(line.joules / 3_600_000, 3)} kWh{part}"


def _money(line: api.cost.CostLine) -> str:
    return "-" if line.money is None else amount(line.money.total)


def _name(line: api.cost.CostLine) -> str:
    return line.name or "(none)"


SHEET: Sheet[api.cost.CostLine] = Sheet(
    "costs",
    [
        Column("name", _name, keep=True),
        Column("down", lambda c: size(c.down_bytes), right=True),
        Column("up", lambda c: size(c.up_bytes), right=True),
        Column("device-hours", lambda c: digits(c.device_hours, 3), right=True),
        Column("energy", energy, spare=1),
        Column("conversion", lambda c: "-" if c.conversion_s is None else f"{c.conversion_s:.0f} s", right=True),
        Column("stored", lambda c: size(c.stored_bytes), right=True),
        Column("money", _money, right=True, keep=True),
        Column("telemetry", lambda c: size(c.telemetry_bytes), right=True, wide=True),
        Column("predictions", lambda c: size(c.prediction_bytes), right=True, wide=True),
        Column("captures", lambda c: size(c.capture_bytes), right=True, wide=True),
        Column("devices", lambda c: text(c.devices), right=True, wide=True),
    ],
    _name,
)
BUNDLES: list[Column[api.cost.BundleSaving]] = [
    Column("release", lambda s: text(s.release), keep=True),
    Column("profile", lambda s: text(s.profile)),
    Column("sent as", lambda s: f"{s.candidate}, {size(s.candidate_bytes)}"),
    Column("smaller", lambda s: f"{s.smaller}, {size(s.smaller_bytes)}"),
    Column("sent", lambda s: size(s.sent_bytes), right=True),
    Column("would save", lambda s: size(s.saved_bytes), right=True),
    Column("money", lambda s: amount(s.saved), right=True),
]
WINDOWS: list[Column[api.cost.WindowSaving]] = [
    Column("model", lambda s: text(s.model), keep=True),
    Column("windows", lambda s: text(s.windows), right=True),
    Column("of", lambda s: f"{s.window_bytes:.0f} B", right=True),
    Column("if", lambda s: f"{s.times}x as long"),
    Column("saves at most", lambda s: size(s.saved_bytes), right=True),
    Column("money", lambda s: amount(s.saved), right=True),
]


def show_cost(out: Output, found: api.cost.CostReport) -> None:
    """Write a report."""
    rows = [*found.lines, replace(found.total, name=TOTAL)]
    out.table(rows, SHEET.columns)
    out.prose(_span(found))
    if not found.is_sum:
        out.prose("A device in several groups counts in each of their lines, and once in the total.")
    if found.total.joules is None and found.total.devices:
        measured = found.total.measured_devices or 0
        out.prose(
            f"Energy is not measured: {measured} of {counted(found.total.devices, 'device')} "
            "run a bundle whose energy `edgectl device measure DEVICE RELEASE` found."
        )
    _show_money(out, found)
    _show_savings(out, found)
    out.heading("How it was computed")
    out.fields([(one.figure, one.how) for one in found.methods])


def _span(found: api.cost.CostReport) -> str:
    counted_since = (
        "no bytes were counted yet"
        if found.counted_since is None
        else f"bytes are counted since {moment(found.counted_since)}"
    )
    return f"{moment(found.since)} to {moment(found.until)}; {counted_since}."


def _show_money(out: Output, found: api.cost.CostReport) -> None:
    money = found.total.money
    if money is None:
        out.prose("No prices: `--prices FILE`, or `edgectl prices set -f FILE` for everyone.")
        return
    parts = [
        ("down", money.down),
        ("up", money.up),
        ("device-hours", money.device_hours),
        ("energy", money.energy),
        ("conversion", money.conversion),
        ("storage", money.storage),
    ]
    known = ", ".join(f"{name} {amount(value)}" for name, value in parts if value is not None)
    missing = ", ".join(name for name, value in parts if value is None)
    unpriced = f" {size(money.unpriced_bytes)} have no price." if money.unpriced_bytes else ""
    without = f" Without a price or a measurement: {missing}." if missing else ""
    out.prose(f"{amount(money.total)} {found.currency}: {known or 'nothing'}.{without}{unpriced}")


def _show_savings(out: Output, found: api.cost.CostReport) -> None:
    out.heading("A smaller bundle")
    if found.smaller_bundles:
        out.table(found.smaller_bundles, BUNDLES)
        out.prose(found.smaller_bundles[0].how)
    else:
        out.prose(
            f"{counted(found.bundles_sent, 'bundle')} sent, {found.compared} with a report of what else was tried: "
            "no smaller candidate kept the metric."
        )
    out.heading("Longer windows")
    if found.longer_windows:
        out.table(found.longer_windows, WINDOWS)
        out.prose(found.longer_windows[0].how)
    else:
        out.prose("No windows came.")


def price_rows(known: api.cost.KnownPrices) -> list[tuple[str, str]]:
    """Return prices as lines: what a unit costs."""
    prices = known.prices
    found = [
        ("GB to devices", prices.down_gb),
        ("GB from devices", prices.up_gb),
        ("device-hour", prices.device_hour),
        ("kWh", prices.kwh),
        ("hour of conversion", prices.conversion_hour),
        ("GB stored for 30 days", prices.stored_gb_month),
    ]
    rows = [(unit, f"{value:g} {prices.currency}") for unit, value in found if value is not None]
    for one in prices.groups:
        own = [("to", one.down_gb), ("from", one.up_gb)]
        said = [f"{value:g} {prices.currency} a GB {way} devices" for way, value in own if value is not None]
        rows.append((f"group {one.group}", ", ".join(said)))
    return rows
