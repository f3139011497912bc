"""How a lint's power is shown: what each stratum's stages can find out."""

from __future__ import annotations

from typing import NamedTuple

from edgefleet_cli.core import api
from edgefleet_cli.render.format import text
from edgefleet_cli.render.output import Column, Output

BAD_PCT = ("10", "20", "50", "100")


class PowerRow(NamedTuple):
    """One stratum or one of its stages, in words. stops: by `BAD_PCT`."""

    stratum: str
    stage: str
    devices: str
    needed: str
    stops: dict[str, str]


ROWS: tuple[Column[PowerRow], ...] = (
    Column("stratum", lambda r: r.stratum, keep=True),
    Column("stage", lambda r: r.stage, keep=True),
    Column("devices", lambda r: r.devices, right=True),
    Column("needed", lambda r: r.needed, right=True),
    *(Column(f"{bad} % bad", lambda r, bad=bad: r.stops[bad], right=True) for bad in BAD_PCT),  # type: ignore[misc]
)


def power_rows(plan: api.rollout.Plan) -> list[PowerRow]:
    """Return rows of texts: of a stratum, devices until a bad release is stopped, and until it is taken back; then one a stage."""
    rows = []
    for stratum in plan.power:
        to_stop = {bad: _devices(stratum.to_stop.get(bad)) for bad in BAD_PCT}
        rows.append(PowerRow(text(stratum.stratum), "to stop it", text(stratum.devices), "", to_stop))
        if stratum.to_take_back:
            back = {bad: _devices(stratum.to_take_back.get(bad)) for bad in BAD_PCT}
            rows.append(PowerRow("", "to go back", "", "", back))
        for stage in stratum.stages:
            stops = {bad: _chance(stage.stops.get(bad)) for bad in BAD_PCT}
            rows.append(PowerRow("", text(stage.stage), text(stage.devices), text(stage.needed), stops))
    return rows


def show_power(out: Output, plan: api.rollout.Plan) -> None:
    """Write what the stages can find out: devices there and needed to pass, and how surely a bad release is stopped there."""
    rows = power_rows(plan)
    if rows:
        out.heading(
            "Power: devices needed to stop a release that fails on this share of devices, and the chance that a stage stops it"
        )
        out.table(rows, ROWS)
        for line in dict.fromkeys(_failures(one) for one in plan.power):
            if line:
                out.line(line)


def _failures(stratum: api.rollout.StratumPower) -> str:
    """Return how many failures of the first devices stop a stratum and take it back; "" where a server does not say."""
    stops, back = stratum.failures_to_stop, stratum.failures_to_take_back
    if stops is None or back is None:
        return ""
    says = f"{text(stratum.stratum)}: {stops} failures of the first {stops} devices stop it"
    return f"{says}, {back} of {back} take it back (liars {100 * stratum.liars:g} %)"


def _devices(count: int | None) -> str:
    return "not by 500" if count is None else f"after {count}"


def _chance(chance: float | None) -> str:
    if chance is None:
        return "-"
    return (
        f"{100 * chance:.0f} %"
        if 0.005 <= chance < 0.995 or chance in {0, 1}
        else ("<1 %" if chance < 0.5 else ">99 %")
    )
