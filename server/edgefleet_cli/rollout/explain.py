"""Why a rollout is where it is: its decisions, whether they follow from their stored evidence, and what it waits for."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from edgefleet_cli.render.format import moment, text, until_s
from edgefleet_cli.render.output import Column, Output, Sheet
from edgefleet_cli.rollout.render import counts_text, device_reason, is_final, stage_name, state_text
from edgefleet_cli.rollout.stage_tree import metric_text

Json = dict[str, Any]

WAITING_LIMIT = 2000
_NAMED = 5
_WHY = {
    "eligible": "not offered yet",
    "offered": "offered, the device has not taken it up",
    "acked": "taken up, the download has not begun",
    "downloading": "downloading",
    "staged": "downloaded, being tested",
    "parity_ok": "tested, about to switch",
    "applying": "switching",
    "verifying": "switched, on probation",
    "unreachable": "never took the offer up; not counted",
}
_OPEN_CELLS = frozenset({"exposing", "soaking", "judging", "held"})


def agreement(decision: Json) -> str:
    """Return ✓, ✗ or `other rules`; nothing where the server cannot tell, as for what a person decided."""
    agrees = decision.get("agrees")
    if agrees is False and is_by_other_rules(decision):
        return "other rules"
    return "" if agrees is None else "✓" if agrees else "✗"


def is_by_other_rules(decision: Json) -> bool:
    """Return whether other rules made a decision than those that made it again: then another verdict is no contradiction."""
    again = decision.get("recomputed")
    version = again.get("rule_version") if isinstance(again, dict) else None
    return version is not None and version != decision.get("rule_version")


def figures_text(figures: Any) -> str:
    """Return `exposed 4, failed 0, e_abort 0.87`; nested figures and what is unknown are left to `-o json`."""
    if not isinstance(figures, dict):
        return "-"
    told = [f"{key} {text(value)}" for key, value in figures.items() if not isinstance(value, dict | list | None)]
    return ", ".join(told) or "-"


DECISIONS = Sheet(
    "decisions yet",
    [
        Column("id", lambda d: text(d.get("id")), wide=True),
        Column("at", lambda d: moment(d.get("at")), keep=True),
        Column("stage", lambda d: text(d.get("stage"))),
        Column("stratum", lambda d: text(d.get("stratum"))),
        Column("verdict", lambda d: text(d.get("verdict"))),
        Column("rule", lambda d: text(d.get("rule"))),
        Column("reason", lambda d: text(d.get("reason"))),
        Column("agrees", agreement),
        Column("figures", lambda d: figures_text(d.get("figures")), wide=True),
        Column("actor", lambda d: text(d.get("actor")), wide=True),
        Column("rule version", lambda d: text(d.get("rule_version")), wide=True),
    ],
    lambda d: text(d.get("id")),
)

WAITING = (
    Column("devices", lambda w: w["count"], right=True),
    Column("state", lambda w: w["state"]),
    Column("waits because", lambda w: w["why"]),
    Column("which", lambda w: w["which"]),
    Column("until", lambda w: w["until"]),
)


def disagreeing(decisions: list[Json]) -> list[Json]:
    """Return the decisions that do not follow from their stored evidence by the rules that made them."""
    return [one for one in decisions if one.get("agrees") is False and not is_by_other_rules(one)]


def chosen(decisions: list[Json], *, is_all: bool) -> list[Json]:
    """Return the newest decision of each stage and stratum, and every one that disagrees; or all of them.

    decisions: newest first, as the API lists them; the order is kept.
    """
    if is_all:
        return decisions
    seen: set[tuple[str, str]] = set()
    kept = []
    for decision in decisions:
        cell = (text(decision.get("stage")), text(decision.get("stratum")))
        if cell not in seen or decision.get("agrees") is False:
            kept.append(decision)
        seen.add(cell)
    return kept


def waiting(devices: list[Json], rollout: Json, now: datetime) -> list[Json]:
    """Return rows of texts: devices that the rollout waits for at `now`, by state and reason, most first."""
    stages = {text(stage.get("name")): stage for stage in rollout.get("stages") or []}
    groups: dict[tuple[str, str], list[tuple[Json, str]]] = {}
    for device in devices:
        stage = stages.get(stage_name(device.get("stage"), rollout.get("stages")))
        why, until = _why(device, stage, now)
        if why:
            groups.setdefault((text(device.get("state")), why), []).append((device, until))
    rows = []
    for (state, why), found in sorted(groups.items(), key=lambda group: -len(group[1])):
        names = [text(device.get("device")) for device, _ in found]
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        first = min((until for _, until in found if until), default="-")
        which = ", ".join(names[:_NAMED]) + more
        rows.append({"count": str(len(found)), "state": state, "why": why, "which": which, "until": first})
    return rows


def _why(device: Json, stage: Json | None, now: datetime) -> tuple[str, str]:
    """Return why a rollout waits for a device, and until when at most; empty when it does not."""
    state = str(device.get("state"))
    if state == "healthy":
        ends = _soak_ends(device, stage, now)
        return ("healthy, but not for as long as its soak", ends) if ends else ("", "")
    if state not in _WHY or (state == "eligible" and not _is_open(device, stage)):
        return "", ""
    told = device_reason(device)
    away = "; the device is offline" if device.get("online") in {False, "offline"} and "offline" not in told else ""
    until = moment(device["deadline"]) if device.get("deadline") else ""
    return (told if told != "-" else _WHY[state]) + away, until


def _soak_ends(device: Json, stage: Json | None, now: datetime) -> str:
    """Return when the soak of a healthy device ends; empty when it is over."""
    soak_s = stage.get("soak_s") if stage else None
    left_s = until_s(device.get("switched_at"), now)
    if not isinstance(soak_s, int | float) or left_s is None or left_s + soak_s <= 0:
        return ""
    return moment((now + timedelta(seconds=left_s + soak_s)).isoformat())


def _is_open(device: Json, stage: Json | None) -> bool:
    cells = (stage or {}).get("strata") or []
    return any(cell.get("state") in _OPEN_CELLS and cell.get("stratum") == device.get("stratum") for cell in cells)


def show_explanation(out: Output, rollout: Json, decisions: list[Json], devices: list[Json], now: datetime) -> None:
    """Write why the rollout is where it is."""
    out.fields(
        [
            ("rollout", f"{text(rollout.get('id'))}  {text(rollout.get('release'))}"),
            ("state", state_text(rollout)),
            ("reason", text(rollout.get("reason"))),
            ("devices", counts_text(rollout.get("counts"))),
        ]
    )
    seen: set[tuple[str, str]] = set()
    for decision in decisions:
        stage = stage_name(decision.get("stage"), rollout.get("stages"))
        stratum = text(decision.get("stratum"))
        is_newest = (stage, stratum) not in seen
        seen.add((stage, stratum))
        out.heading(f"{stage} / {stratum}")
        _show_decision(out, decision, _cell(rollout, stage, stratum) if is_newest else {})
    rows = [] if is_final(rollout) else waiting(devices, rollout, now)
    if rows:
        out.heading("Waiting for")
        out.table(rows, WAITING)


def _cell(rollout: Json, stage: str, stratum: str) -> Json:
    """Return one stratum of one stage, empty when the rollout has none such."""
    cells = [
        cell for one in rollout.get("stages") or [] if one.get("name") == stage for cell in one.get("strata") or []
    ]
    return next((cell for cell in cells if cell.get("stratum") == stratum), {})


def _show_decision(out: Output, decision: Json, cell: Json) -> None:
    """Write a decision; where its cell stands for another reason now, such as a person's word, that too."""
    version = f" (rules {decision['rule_version']})" if decision.get("rule_version") is not None else ""
    has_moved = cell.get("reason") and cell["reason"] != decision.get("reason")
    out.fields(
        [
            ("now", f"{text(cell.get('state'))}: {cell['reason']}" if has_moved else ""),
            ("verdict", f"{text(decision.get('verdict'))} by {text(decision.get('rule'))}{version}"),
            ("at", f"{moment(decision.get('at'))} by {text(decision.get('actor'))}"),
            ("reason", text(decision.get("reason"))),
            *((metric["name"], metric_text(metric)) for metric in cell.get("quality") or []),
            ("figures", figures_text(decision.get("figures"))),
            ("recomputed", _recomputed(decision)),
        ]
    )


def _recomputed(decision: Json) -> str:
    again = decision.get("recomputed")
    if decision.get("agrees") is not False or not isinstance(again, dict):
        return f"{agreement(decision)} the stored evidence gives the same" if decision.get("agrees") else ""
    stored, figures = decision.get("figures") or {}, again.get("figures") or {}
    changed = [
        f"{key} {text(stored.get(key))} → {text(figures.get(key))}"
        for key in {**stored, **figures}
        if stored.get(key) != figures.get(key)
    ]
    by = f" by the rules of today ({again.get('rule_version')})" if is_by_other_rules(decision) else ""
    verdict = f"{text(again.get('verdict'))}: {text(again.get('reason'))}"
    told = f"{agreement(decision)}{':' if by else ''} the stored evidence gives{by} {verdict}"
    return "; ".join([told, *changed])
