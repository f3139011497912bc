"""How rollouts, their plans and their devices are shown for eyes; the tree of stages is in `stage_tree`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import NamedTuple

from edgefleet_cli.core import api
from edgefleet_cli.core.errors import EXIT_OK, EXIT_ROLLOUT_FAILED, EXIT_TIMEOUT
from edgefleet_cli.render.format import age, counted, duration, moment, size, text
from edgefleet_cli.render.output import Column, Output, Sheet
from edgefleet_cli.rollout.simulation.power_table import show_power
from edgefleet_terms.rollout_states import ROLLOUT_FINAL, shown_state

REGRESSED = "regressed"
"""Finished well, and bad afterwards; where the spec says `on_fail: pause` it waits for a person so."""
UNSETTLED = "running,paused,awaiting_approval,rolling_back,regressed"
"""States, as the server's lists take them, in which a rollout still has something to say."""
UNCONFIRMED = "unconfirmed"
"""Code of a stratum that waits for a person because a failure was not confirmed."""
WAITS_FOR_A_PERSON = frozenset({"paused", "awaiting_approval"})
MOST_WAITS = 4
_AFTER_ITS_END = "after it had finished"
BAD_DEVICE_STATES = ("failed", "lost", "regressed", "rolled_back")


def is_final(rollout: api.rollout.Rollout) -> bool:
    """Tell whether nothing more will happen by itself."""
    return rollout.state in ROLLOUT_FINAL


def exit_code(rollout: api.rollout.Rollout) -> int:
    """Return 0 for a rollout finished on every stratum, 7 for any other end, 8 when it goes on."""
    if not is_final(rollout):
        return EXIT_TIMEOUT
    is_whole = rollout.state == "finished" and not rollout.is_partial
    return EXIT_OK if is_whole else EXIT_ROLLOUT_FAILED


def state_text(rollout: api.rollout.Rollout) -> str:
    """Return the state, with what qualifies it."""
    state = shown_state(text(rollout.state))
    if rollout.stopped_by:
        return f"{state} by {rollout.stopped_by}"
    return f"{state}, partial" if rollout.is_partial else state


def counts_text(counts: api.rollout.Counts) -> str:
    """Return counts in words: `4 of 5 healthy, 1 failed`; what is zero is left out."""
    words = [f"{counts.healthy} of {counts.exposed} healthy"] if counts.exposed else []
    others = {
        "failed": counts.failed,
        "pending": counts.pending,
        "unreachable": counts.unreachable,
        "incompatible": counts.incompatible,
        "rolled back": counts.rolled_back,
    }
    words += [f"{count} {name}" for name, count in others.items() if count]
    if counts.offered and not counts.exposed:
        words.append(f"{counts.offered} offered")
    return ", ".join(words) or "none exposed"


def regressed_lines(rollouts: Iterable[api.rollout.Rollout]) -> list[str]:
    """Return one line for each rollout that finished and turned out bad afterwards, whatever became of it then."""
    return [
        f"{text(one.id)} ({text(one.release)}) regressed after it had finished: {text(one.reason)}"
        for one in rollouts
        if one.state == REGRESSED or _AFTER_ITS_END in one.reason
    ]


def rollout_sheet(now: datetime) -> Sheet[api.rollout.Rollout]:
    """Return how rollouts are listed; ages are counted from `now`."""
    return Sheet(
        "rollouts; start one with `edgectl rollout create RELEASE --to SELECTOR`",
        [
            Column("id", lambda r: text(r.id), keep=True),
            Column("release", lambda r: text(r.release)),
            Column("state", state_text),
            Column("stage", _current_stage),
            Column("devices", lambda r: counts_text(r.counts)),
            Column("age", lambda r: age(r.started_at or r.created_at, now), right=True),
            Column("reason", lambda r: text(reason_text(r))),
            Column("name", lambda r: text(r.name), wide=True),
            Column("selector", lambda r: text(r.selector), wide=True),
            Column("started", lambda r: moment(r.started_at), wide=True),
            Column("finished", lambda r: moment(r.finished_at), wide=True),
            Column("by", lambda r: text(r.created_by), wide=True),
        ],
        lambda r: text(r.id),
    )


def _took(rollout: api.rollout.Rollout) -> str:
    started, finished = rollout.started_at, rollout.finished_at
    if started is None or finished is None:
        return "-"
    return duration((datetime.fromisoformat(finished) - datetime.fromisoformat(started)).total_seconds())


HISTORY: Sheet[api.rollout.Rollout] = Sheet(
    "rollouts of this model",
    [
        Column("id", lambda r: text(r.id), keep=True),
        Column("release", lambda r: text(r.release)),
        Column("ended as", state_text),
        Column("started", lambda r: moment(r.started_at or r.created_at)),
        Column("took", _took, right=True),
        Column("devices", lambda r: counts_text(r.counts), spare=1),
        Column("by", lambda r: text(r.created_by), spare=2),
        Column("reason", lambda r: text(r.reason), wide=True),
        Column("selector", lambda r: text(r.selector or "all devices"), wide=True),
    ],
    lambda r: text(r.id),
)


def reason_text(rollout: api.rollout.Rollout) -> str:
    """Return why a rollout stands where it stands; of one that runs, what it does and when it decides next."""
    next_at = rollout.outlook.next_decision_at if rollout.outlook is not None else None
    return f"{rollout.reason}, next decision {moment(next_at)}" if next_at else rollout.reason


def status_line(rollout: api.rollout.Rollout) -> str:
    """Return `r-7 digits@1.1.0 running, stage canary: 1 of 2 healthy; reason`."""
    stage = f", stage {text(_current_stage(rollout))}" if not is_final(rollout) and rollout.stage else ""
    reason = f"; {reason_text(rollout)}" if rollout.reason else ""
    head = f"{text(rollout.id)} {text(rollout.release)} {state_text(rollout)}{stage}"
    return f"{head}: {counts_text(rollout.counts)}{reason}"


def stage_name(stage: str | int | None, stages: Iterable[api.rollout.Stage | api.rollout.PlannedStage]) -> str:
    """Return the name of a stage that is given by name or by index into `stages`."""
    if isinstance(stage, int):
        found = next((entry for entry in stages if entry.idx == stage), None)
        return text(found.name) if found else text(stage)
    return text(stage)


def _current_stage(rollout: api.rollout.Rollout) -> str:
    return text(rollout.stage)


def device_sheet() -> Sheet[api.rollout.RolloutDevice]:
    """Return how the devices of a rollout are listed."""
    return Sheet(
        "devices of this rollout",
        [
            Column("name", lambda d: text(d.display_name or None)),
            Column("device", lambda d: text(d.device), keep=True),
            Column("stratum", lambda d: text(d.stratum or d.profile)),
            Column("stage", lambda d: text(d.stage)),
            Column("state", lambda d: text(d.state)),
            Column("running", lambda d: text(d.running)),
            Column("reason", _reason_or_wait),
            Column("waits for", device_wait, wide=True),
            Column("next", lambda d: text(d.next), wide=True),
            Column("retries", lambda d: text(d.retries), wide=True, right=True),
            Column("phase", lambda d: text(d.phase), wide=True),
            Column("attempt", lambda d: text(d.attempt), wide=True, right=True),
            Column("online", lambda d: text(d.online), wide=True),
            Column("failed before", lambda d: text(d.failed_before), wide=True),
            Column("joiner", lambda d: text(d.is_joiner), wide=True),
            Column("offered", lambda d: moment(d.offered_at), wide=True),
            Column("exposed", lambda d: moment(d.exposed_at), wide=True),
            Column("switched", lambda d: moment(d.switched_at), wide=True),
            Column("ended", lambda d: moment(d.ended_at), wide=True),
            Column("deadline", lambda d: moment(d.deadline), wide=True),
        ],
        lambda d: text(d.device),
    )


def device_reason(device: api.rollout.RolloutDevice) -> str:
    """Return `class: reason` of a device, one of them, or `-`."""
    return ": ".join(word for word in (device.error_class, device.reason) if word) or "-"


def _reason_or_wait(device: api.rollout.RolloutDevice) -> str:
    """Return the reason of a device, else what it waits for."""
    shown = device_reason(device)
    return device_wait(device) if shown == "-" else shown


BAD_DEVICES: Sequence[Column[api.rollout.RolloutDevice]] = (
    Column("name", lambda d: text(d.display_name or None)),
    Column("device", lambda d: text(d.device), keep=True),
    Column("stratum", lambda d: text(d.stratum or d.profile), spare=2),
    Column("stage", lambda d: text(d.stage), spare=1),
    Column("state", lambda d: text(d.state), keep=True),
    Column("running", lambda d: text(d.running)),
    Column("reason", _reason_or_wait, fold=True),
)
"""Of the devices below a rollout that ended badly: why comes before where."""


def show_head(out: Output, rollout: api.rollout.Rollout, now: datetime) -> None:
    """Write what a rollout is and how it stands."""
    started = rollout.started_at
    out.fields(
        [
            ("id", text(rollout.id)),
            ("name", text(rollout.name)),
            ("release", text(rollout.release)),
            ("selector", text(rollout.selector or "all devices")),
            ("state", state_text(rollout)),
            ("reason", text(reason_text(rollout))),
            ("on hold", "no more devices switch to it" if rollout.is_braked else ""),
            ("devices", counts_text(rollout.counts)),
            ("all strata", _pooled(rollout.pooled)),
            ("downloads", f"{rollout.downloads} at a time" if rollout.downloads else ""),
            ("waits for", "; ".join(wait_lines(rollout.waits))),
            ("confirmation", "; ".join(confirmation_lines(rollout))),
            ("created", f"{moment(rollout.created_at)} by {text(rollout.created_by)}"),
            ("started", f"{moment(started)} ({age(started, now)} ago)" if started else ""),
            ("finished", moment(rollout.finished_at)),
        ]
    )


def confirmation_lines(rollout: api.rollout.Rollout) -> list[str]:
    """Return one line for each failure that waits for confirmation, or waits for a person because it was not confirmed."""
    return [
        f"{text(cell.stratum)}: {one.text}" + (f", answer due {moment(one.deadline)}" if one.verdict == "open" else "")
        for stage in rollout.stages
        for cell in stage.strata
        for one in cell.confirmations[-1:]
        if one.verdict == "open" or cell.code == UNCONFIRMED
    ]


def _pooled(pooled: api.rollout.Pooled) -> str:
    if not pooled.exposed:
        return ""
    shown = f"{pooled.failed} of {pooled.exposed} failed"
    shown = f"{shown}, e {text(pooled.e_abort)} of {text(pooled.abort_at)} to stop all"
    has_liars = 0 < pooled.e_take_back != pooled.e_abort
    return f"{shown}, e {text(pooled.e_take_back)} to take all back" if has_liars else shown


def next_steps(rollout: api.rollout.Rollout) -> str:
    """Return what a person can do now, as commands."""
    id_ = text(rollout.id)
    if rollout.state == "paused":
        return (
            f"`edgectl rollout explain {id_}` shows why; `edgectl rollout resume {id_}` continues, "
            f"`edgectl rollout promote {id_} --reason R` overrides, "
            f"`edgectl rollout abort {id_} --rollback` rolls back"
        )
    if rollout.state == REGRESSED:
        return (
            f"`edgectl rollout explain {id_}` shows what regressed; `edgectl rollout abort {id_} --rollback` rolls back"
        )
    if rollout.state == "awaiting_approval":
        return f"`edgectl rollout approve {id_}` approves, `edgectl rollout deny {id_} --reason R` rolls back"
    if exit_code(rollout) == EXIT_ROLLOUT_FAILED:
        return f"`edgectl rollout explain {id_}` shows why, `edgectl rollout devices {id_}` where"
    if exit_code(rollout) == EXIT_TIMEOUT:
        return f"follow it with `edgectl rollout watch {id_}`"
    return ""


def wait_lines(waits: Sequence[api.rollout.Wait]) -> list[str]:
    """Return the waits of a stage or a rollout: one line each, the most frequent first."""
    shown = [_wait(wait) for wait in waits[:MOST_WAITS]]
    left = len(waits) - MOST_WAITS
    return [*shown, f"and {left} more reasons"] if left > 0 else shown


def stage_lines(stage: api.rollout.Stage) -> list[str]:
    """Return the rate of a stage, where something waits in it, and its waits."""
    rate = [_rate(stage.rate)] if stage.rate is not None and stage.waits else []
    return rate + wait_lines(stage.waits)


def device_wait(device: api.rollout.RolloutDevice) -> str:
    """Return what a device waits for and when that is; `-` when it waits for nothing."""
    if not device.waits_for:
        return "-"
    until = f" ({moment(device.until)})" if device.until else ""
    return f"{device.waits_for}{until}"


def _wait(wait: api.rollout.Wait) -> str:
    when = f" {wait.at} {moment(wait.until)}" if wait.at and wait.until else ""
    return f"{wait.text}. Next: {wait.next}{when}" if wait.next else f"{wait.text}{when}"


def _rate(rate: api.rollout.Rate) -> str:
    shown = f"{text(rate.per_min)} a minute, {text(rate.offered)} offered in this minute"
    then = rate.next_per_min
    return shown if then == rate.per_min else f"{shown}; then {text(then)}"


class PlanRow(NamedTuple):
    """One stage of one stratum of a plan, in words."""

    stage: str
    size: str
    soak: str
    stratum: str
    new: str
    cumulative: str
    rule: str
    why: str


class FindingRow(NamedTuple):
    """A finding, its stage by name."""

    stage: str
    finding: api.rollout.Finding


class PlanDeviceRow(NamedTuple):
    """One device of a plan, with its stage."""

    stage: str
    stratum: str
    name: str
    device: str
    why: str


PLAN_ROWS: tuple[Column[PlanRow], ...] = (
    Column("stage", lambda r: r.stage, keep=True),
    Column("size", lambda r: r.size),
    Column("soak", lambda r: r.soak, right=True),
    Column("stratum", lambda r: r.stratum),
    Column("new", lambda r: r.new, right=True),
    Column("total", lambda r: r.cumulative, right=True),
    Column("rule", lambda r: r.rule),
)
RULE_ROWS: tuple[Column[PlanRow], ...] = (
    Column("stage", lambda r: r.stage, keep=True),
    Column("stratum", lambda r: r.stratum),
    Column("total", lambda r: r.cumulative, right=True),
    Column("rule", lambda r: r.rule),
    Column("why", lambda r: r.why, fold=True),
)
FINDINGS: Sheet[FindingRow] = Sheet(
    "findings",
    [
        Column("level", lambda f: text(f.finding.level), keep=True),
        Column("stage", lambda f: text(f.stage)),
        Column("stratum", lambda f: text(f.finding.stratum)),
        Column("message", lambda f: text(f.finding.message), fold=True),
        Column("next", lambda f: text(f.finding.next), fold=True),
        Column("code", lambda f: text(f.finding.code), wide=True),
    ],
    lambda f: text(f.finding.code),
)
PLAN_DEVICES: Sheet[PlanDeviceRow] = Sheet(
    "devices get this release",
    [
        Column("stage", lambda d: d.stage, keep=True),
        Column("stratum", lambda d: d.stratum),
        Column("name", lambda d: text(d.name or None)),
        Column("device", lambda d: text(d.device), keep=True),
        Column("why", lambda d: text(d.why)),
    ],
    lambda d: text(d.device),
)
EXCLUDED: tuple[Column[api.rollout.ExcludedDevice], ...] = (
    Column("name", lambda d: text(d.display_name or None)),
    Column("device", lambda d: text(d.device), keep=True),
    Column("profile", lambda d: text(d.profile)),
    Column("reason", lambda d: text(d.reason), fold=True),
    Column("next", lambda d: text(d.next), fold=True),
)


def plan_rows(plan: api.rollout.Plan) -> list[PlanRow]:
    """Return one row of texts a stage and stratum."""
    return [
        PlanRow(
            text(stage.name),
            text(stage.size_text),
            duration(stage.soak_s),
            *(text(value) for value in (cell.stratum, cell.new, cell.cumulative, cell.rule, cell.why)),
        )
        for stage in plan.stages
        for cell in stage.strata
    ]


def plan_devices(plan: api.rollout.Plan) -> list[PlanDeviceRow]:
    """Return one row a device, in the order in which they get the release."""
    return list(_plan_devices(plan))


def _plan_devices(plan: api.rollout.Plan) -> Iterator[PlanDeviceRow]:
    for stage in plan.stages:
        for cell in stage.strata:
            for device in cell.devices:
                yield PlanDeviceRow(
                    text(stage.name), text(cell.stratum), device.display_name, device.device, device.why
                )


def findings(plan: api.rollout.Plan) -> list[FindingRow]:
    """Return the findings of a plan, errors first, their stages by name."""
    named = [FindingRow(stage_name(entry.stage, plan.stages), entry) for entry in plan.findings]
    return sorted(named, key=lambda row: row.finding.level != "error")


def show_short_plan(out: Output, plan: api.rollout.Plan) -> None:
    """Write the stages of a plan as one table, and what the lint found."""
    rows = plan_rows(plan)
    if rows:
        out.table(rows, PLAN_ROWS)
    for line in failure_lines(plan):
        out.prose(line)
    if plan.cost:
        out.note(cost_text(plan.cost))
    show_findings(out, plan)


def failure_lines(plan: api.rollout.Plan) -> list[str]:
    """Return what one failure does in each stratum of so few devices that few can confirm it."""
    return [f"{text(one.stratum)}: {one.after_failure}" for one in plan.strata if one.after_failure]


def cost_text(cost: api.rollout.PlanCost) -> str:
    """Return what a plan costs: `12.0 MiB to download on 40 devices; 2 devices hold it already, 0 bytes`."""
    shown = (
        f"{size(cost.bytes)} to download on {counted(cost.downloads, 'device')}"
        if cost.downloads
        else "nothing to download"
    )
    return f"{shown}; {counted(cost.kept, 'device')} have it in a slot already, 0 bytes" if cost.kept else shown


def show_findings(out: Output, plan: api.rollout.Plan) -> None:
    """Write what the lint found, if anything."""
    if plan.findings:
        out.heading("Findings")
        out.table(findings(plan), FINDINGS.columns)


def show_lint(out: Output, plan: api.rollout.Plan) -> None:
    """Write what the lint found, then the rule of every stage and stratum and why it is this one."""
    if plan.findings:
        out.table(findings(plan), FINDINGS.columns)
        out.line("")
    rows = plan_rows(plan)
    if rows:
        out.table(rows, RULE_ROWS)
    show_power(out, plan)


def show_plan(out: Output, plan: api.rollout.Plan) -> None:
    """Write who gets the release, in which stage and why, and who does not."""
    out.fields(
        [
            ("release", text(plan.release)),
            ("selector", text(plan.selector or "all devices")),
            ("matched", counted(plan.matched, "device")),
        ]
    )
    missing = [entry for entry in plan.strata if not entry.bundle]
    for entry in missing:
        population = counted(entry.population, "device")
        out.note(f"no bundle for {entry.stratum}: {population} left out")
    show_short_plan(out, plan)
    devices = plan_devices(plan)
    if devices:
        out.heading("Devices")
        out.table(devices, PLAN_DEVICES.columns)
    unlisted = sum(int(row.new) for row in plan_rows(plan) if row.new.isdigit()) - len(devices)
    if devices and unlisted > 0:
        out.note(f"and {counted(unlisted, 'more device')}; a plan names the first 50 of each stage and stratum")
    if plan.excluded:
        out.heading("Excluded devices")
        out.table(plan.excluded, EXCLUDED)
