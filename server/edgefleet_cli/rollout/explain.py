"""Why a rollout is where it is: its decisions, whether they follow from their stored evidence, and what it waits for."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from edgefleet_cli.core import api
from edgefleet_cli.render.format import moment, named, text, until_s
from edgefleet_cli.render.output import Column, Output, Sheet
from edgefleet_cli.rollout.confirmation_story import show_confirmations, words_text
from edgefleet_cli.rollout.render import counts_text, device_reason, is_final, reason_text, state_text
from edgefleet_cli.rollout.stage_tree import metric_text

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


def agreement(decision: api.rollout.Decision) -> str:
    """Return ✓, ✗ or `other rules`."""
    if decision.agrees:
        return "✓"
    return "other rules" if is_by_other_rules(decision) else "✗"


def is_by_other_rules(decision: api.rollout.Decision) -> bool:
    """Return whether other rules made a decision than those that made it again: then another verdict is no contradiction."""
    return decision.recomputed.rule_version not in {0, decision.rule_version}


def figures_text(figures: dict[str, Any]) -> str:
    """Return `exposed 4, failed 0, e_abort 0.87`; nested figures and what is unknown are left to `-o json`."""
    shown = [f"{key} {text(value)}" for key, value in figures.items() if not isinstance(value, dict | list | None)]
    return ", ".join(shown) or "-"


DECISIONS: Sheet[api.rollout.Decision] = Sheet(
    "decisions yet",
    [
        Column("id", lambda d: text(d.id), wide=True),
        Column("at", lambda d: moment(d.at), keep=True),
        Column("stage", lambda d: text(d.stage)),
        Column("stratum", lambda d: text(d.stratum)),
        Column("verdict", lambda d: text(d.verdict)),
        Column("rule", lambda d: text(d.rule)),
        Column("reason", lambda d: text(d.reason)),
        Column("agrees", agreement),
        Column("figures", lambda d: figures_text(d.figures), wide=True),
        Column("actor", lambda d: text(d.actor), wide=True),
        Column("rule version", lambda d: text(d.rule_version), wide=True),
    ],
    lambda d: text(d.id),
)


class WaitingRow(NamedTuple):
    """Devices that the rollout waits for, of one state and for one reason."""

    devices: str
    state: str
    why: str
    which: str
    until: str


WAITING: tuple[Column[WaitingRow], ...] = (
    Column("devices", lambda w: w.devices, right=True),
    Column("state", lambda w: w.state),
    Column("waits because", lambda w: w.why, fold=True),
    Column("which", lambda w: w.which, fold=True),
    Column("until", lambda w: w.until, keep=True),
)


def disagreeing(decisions: Iterable[api.rollout.Decision]) -> list[api.rollout.Decision]:
    """Return the decisions that do not follow from their stored evidence by the rules that made them."""
    return [one for one in decisions if not one.agrees and not is_by_other_rules(one)]


def chosen(decisions: Iterable[api.rollout.Decision], *, is_all: bool) -> list[api.rollout.Decision]:
    """Return the newest decision of each stage and stratum, and every one that disagrees; or all of them.

    decisions: newest first, as the API lists them; the order is kept.
    """
    if is_all:
        return list(decisions)
    seen: set[tuple[str, str]] = set()
    kept = []
    for decision in decisions:
        cell = (text(decision.stage), text(decision.stratum))
        if cell not in seen or not decision.agrees:
            kept.append(decision)
        seen.add(cell)
    return kept


def waiting(
    devices: Iterable[api.rollout.RolloutDevice], rollout: api.rollout.Rollout, now: datetime
) -> list[WaitingRow]:
    """Return rows of texts: devices that the rollout waits for at `now`, by state and reason, most first."""
    stages = {stage.name: stage for stage in rollout.stages}
    groups: dict[tuple[str, str], list[tuple[api.rollout.RolloutDevice, str]]] = {}
    for device in devices:
        stage = stages.get(device.stage)
        why, until = _why(device, stage, now)
        if why:
            groups.setdefault((text(device.state), why), []).append((device, until))
    rows = []
    for (state, why), found in sorted(groups.items(), key=lambda group: -len(group[1])):
        names = [named(device.device, device.display_name) for device, _ in found]
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        first = min((until for _, until in found if until), default="-")
        which = ", ".join(names[:_NAMED]) + more
        rows.append(WaitingRow(str(len(found)), state, why, which, first))
    return rows


def _why(device: api.rollout.RolloutDevice, stage: api.rollout.Stage | None, now: datetime) -> tuple[str, str]:
    """Return why a rollout waits for a device, and until when at most; empty when it does not."""
    state = device.state
    if state == "healthy":
        ends = _soak_ends(device, stage, now)
        return ("healthy and soaking", ends) if ends else ("", "")
    if state not in _WHY or (state == "eligible" and not _is_open(device, stage)):
        return "", ""
    shown = device_reason(device)
    away = "; the device is offline" if device.online == "offline" and "offline" not in shown else ""
    until = moment(device.deadline) if device.deadline else ""
    return (shown if shown != "-" else _WHY[state]) + away, until


def _soak_ends(device: api.rollout.RolloutDevice, stage: api.rollout.Stage | None, now: datetime) -> str:
    """Return when the soak of a healthy device ends; empty when it is over."""
    left_s = until_s(device.switched_at, now)
    if stage is None or left_s is None or left_s + stage.soak_s <= 0:
        return ""
    return moment((now + timedelta(seconds=left_s + stage.soak_s)).isoformat())


def _is_open(device: api.rollout.RolloutDevice, stage: api.rollout.Stage | None) -> bool:
    cells = stage.strata if stage else ()
    return any(cell.state in _OPEN_CELLS and cell.stratum == device.stratum for cell in cells)


def show_explanation(
    out: Output,
    rollout: api.rollout.Rollout,
    decisions: Iterable[api.rollout.Decision],
    devices: Iterable[api.rollout.RolloutDevice],
    now: datetime,
) -> None:
    """Write why the rollout is where it is."""
    out.fields(
        [
            ("rollout", f"{text(rollout.id)}  {text(rollout.release)}"),
            ("state", state_text(rollout)),
            ("reason", text(reason_text(rollout))),
            ("devices", counts_text(rollout.counts)),
        ]
    )
    decisions = list(decisions)
    if decisions:
        out.line("")
        out.table(verdicts(rollout, decisions), VERDICTS)
    show_confirmations(out, rollout)
    metrics = [
        (f"{stage.name} / {cell.stratum}", metric_text(metric))
        for stage in rollout.stages
        for cell in stage.strata
        for metric in cell.quality
    ]
    if metrics:
        out.heading("Quality gates")
        out.fields(metrics)
    differing = [(f"{one.stage} / {one.stratum}", _recomputed(one)) for one in decisions if not one.agrees]
    if differing:
        out.heading("Decisions that do not match the stored evidence")
        out.fields(differing)
    rows = [] if is_final(rollout) else waiting(devices, rollout, now)
    if rows:
        out.heading("Waiting for")
        out.table(rows, WAITING)


class Verdict(NamedTuple):
    """What was decided on one stage of one stratum, in words; evidence: of each test, and what it must reach."""

    stage: str
    stratum: str
    at: str
    devices: str
    failed: str
    evidence: str
    decision: str
    agrees: str


VERDICTS: tuple[Column[Verdict], ...] = (
    Column("stage", lambda v: v.stage, keep=True),
    Column("profile", lambda v: v.stratum),
    Column("devices", lambda v: v.devices, right=True),
    Column("failed", lambda v: v.failed, right=True),
    Column("evidence", lambda v: v.evidence, fold=True),
    Column("decision", lambda v: v.decision, fold=True),
    Column("checked", lambda v: v.agrees, keep=True),
    Column("at", lambda v: v.at, wide=True),
)


def verdicts(rollout: api.rollout.Rollout, decisions: Iterable[api.rollout.Decision]) -> list[Verdict]:
    """Return one row a decision, newest first; where a cell stands for another reason now, such as a person's word, the newest says it."""
    rows = []
    seen: set[tuple[str, str]] = set()
    for one in decisions:
        stage, stratum = text(one.stage), text(one.stratum)
        cell = None if (stage, stratum) in seen else _cell(rollout, stage, stratum)
        seen.add((stage, stratum))
        has_moved = cell is not None and cell.reason and cell.reason != one.reason
        verdict = text(cell.state if has_moved and cell else one.verdict).replace("_", " ")
        reason = cell.reason if has_moved and cell else one.reason
        figures = one.figures
        rows.append(
            Verdict(
                stage,
                stratum,
                moment(one.at),
                text(figures.get("exposed")),
                text(figures.get("failed")),
                _evidence(one, cell.abort_at if cell else None),
                f"{verdict}: {reason}" if reason else verdict,
                agreement(one),
            )
        )
    return rows


def _evidence(decision: api.rollout.Decision, abort_at: float | None) -> str:
    """Return `stop 0.87 of 100, take back 0.4 of 100, promote 3 of 20`; without liars one test, `abort`, stops and takes back.

    The promote test decides only where evidence is the rule.
    """
    figures = decision.figures
    at = figures.get("abort_at") or abort_at
    has_liars = "e_take_back" in figures
    both = [("stop" if has_liars else "abort", figures.get("e_abort"), at)]
    if has_liars:
        both.append(("take back", figures.get("e_take_back"), at))
    if decision.rule == "evidence":
        both.append(("promote", figures.get("e_promote"), figures.get("promote_at")))
    shown = [
        f"{name} {value:.3g}" + (f" of {threshold:.3g}" if isinstance(threshold, int | float) else "")
        for name, value, threshold in both
        if isinstance(value, int | float)
    ]
    return ", ".join([*shown, *words_text(decision.evidence)]) or "-"


def _cell(rollout: api.rollout.Rollout, stage: str, stratum: str) -> api.rollout.Stratum | None:
    """Return one stratum of one stage, None when the rollout has none such."""
    cells = [cell for one in rollout.stages if one.name == stage for cell in one.strata]
    return next((cell for cell in cells if cell.stratum == stratum), None)


def _recomputed(decision: api.rollout.Decision) -> str:
    again = decision.recomputed
    if decision.agrees:
        return f"{agreement(decision)} the stored evidence gives the same"
    stored, figures = decision.figures, again.figures
    changed = [
        f"{key} {text(stored.get(key))} → {text(figures.get(key))}"
        for key in {**stored, **figures}
        if stored.get(key) != figures.get(key)
    ]
    by = f" by the rules of today ({again.rule_version})" if is_by_other_rules(decision) else ""
    verdict = f"{text(again.verdict)}: {text(again.reason)}"
    shown = f"{agreement(decision)}{':' if by else ''} the stored evidence gives{by} {verdict}"
    return "; ".join([shown, *changed])
