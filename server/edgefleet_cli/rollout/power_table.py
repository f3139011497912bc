"""How a lint's power is shown: what each stratum's stages can find out."""

from __future__ import annotations

from typing import Any

from edgefleet_cli.render.format import text
from edgefleet_cli.render.output import Column, Output

Json = dict[str, Any]

BAD_PCT = ("10", "20", "50", "100")
ROWS = (
    Column("stratum", lambda r: r["stratum"], keep=True),
    Column("stage", lambda r: r["stage"], keep=True),
    Column("devices", lambda r: r["devices"], right=True),
    Column("needed", lambda r: r["needed"], right=True),
    *(Column(f"{bad} % bad", lambda r, bad=bad: r[bad], right=True) for bad in BAD_PCT),  # type: ignore[misc]
)


def power_rows(plan: Json) -> list[Json]:
    """Return one row of texts a stratum, of devices until a bad release is stopped, then one for each of its stages."""
    rows = []
    for stratum in plan.get("power") or []:
        to_stop = stratum.get("to_stop") or {}
        head = {"stratum": text(stratum.get("stratum")), "stage": "to stop it", "devices": text(stratum.get("devices"))}
        rows.append({**head, "needed": "", **{bad: _devices(to_stop.get(bad)) for bad in BAD_PCT}})
        for stage in stratum.get("stages") or []:
            stops = stage.get("stops") or {}
            rows.append(
                {
                    "stratum": "",
                    "stage": text(stage.get("stage")),
                    "devices": text(stage.get("devices")),
                    "needed": text(stage.get("needed")),
                    **{bad: _chance(stops.get(bad)) for bad in BAD_PCT},
                }
            )
    return rows


def show_power(out: Output, plan: Json) -> None:
    """Write what the stages can find out: devices there and needed to pass, and how surely a bad release is stopped there."""
    rows = power_rows(plan)
    if rows:
        out.heading(
            "Power: devices until a release that fails on so many is stopped, and the chance that a stage stops it"
        )
        out.table(rows, ROWS)


def _devices(count: Any) -> str:
    return f"after {count}" if isinstance(count, int) else "not by 500"


def _chance(chance: Any) -> str:
    if not isinstance(chance, int | float):
        return "-"
    return (
        f"{100 * chance:.0f} %"
        if 0.005 <= chance < 0.995 or chance in {0, 1}
        else ("<1 %" if chance < 0.5 else ">99 %")
    )
