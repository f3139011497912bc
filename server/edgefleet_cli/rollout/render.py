"""How rollouts, their plans and their devices are shown for eyes; the tree of stages is in `stage_tree`."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from edgefleet_cli.core.errors import EXIT_OK, EXIT_ROLLOUT_FAILED, EXIT_TIMEOUT
from edgefleet_cli.render.format import age, counted, duration, moment, size, text
from edgefleet_cli.render.output import Column, Output, Sheet
from edgefleet_cli.rollout.blocker_text import device_wait, wait_lines
from edgefleet_cli.rollout.power_table import show_power
from edgefleet_protocol.rollout_states import ROLLOUT_FINAL

Json = dict[str, Any]

REGRESSED = "regressed"
"""Finished well, and bad afterwards; where the spec says `on_fail: pause` it waits for a person so."""
UNSETTLED = "running,paused,awaiting_approval,rolling_back,regressed"
"""States, as the server's lists take them, in which a rollout still has something to say."""
WAITS_FOR_A_PERSON = frozenset({"paused", "awaiting_approval"})
_AFTER_ITS_END = "after it had finished"
BAD_DEVICE_STATES = ("failed", "lost", "regressed", "rolled_back")


def is_final(rollout: Json) -> bool:
    """Tell whether nothing more will happen by itself."""
    return rollout.get("state") in ROLLOUT_FINAL


def exit_code(rollout: Json) -> int:
    """Return 0 for a rollout finished on every stratum, 7 for any other end, 8 when it goes on."""
    if not is_final(rollout):
        return EXIT_TIMEOUT
    is_whole = rollout.get("state") == "finished" and not rollout.get("is_partial")
    return EXIT_OK if is_whole else EXIT_ROLLOUT_FAILED


def state_text(rollout: Json) -> str:
    """Return the state, with what qualifies it."""
    state = text(rollout.get("state"))
    return f"{state}, partial" if rollout.get("is_partial") else state


def counts_text(counts: Any) -> str:
    """Return counts in words: `4 of 5 healthy, 1 failed`; what is zero is left out."""
    known: Json = counts if isinstance(counts, dict) else {}
    exposed = known.get("exposed") or 0
    words = [f"{known.get('healthy') or 0} of {exposed} healthy"] if exposed else []
    others = ("failed", "pending", "unreachable", "incompatible", "rolled_back")
    words += [f"{known[name]} {name.replace('_', ' ')}" for name in others if known.get(name)]
    if known.get("offered") and not exposed:
        words.append(f"{known['offered']} offered")
    return ", ".join(words) or "none exposed"


def regressed_lines(rollouts: list[Json]) -> list[str]:
    """Return one line for each rollout that finished and turned out bad afterwards, whatever became of it then."""
    return [
        f"{text(one.get('id'))} ({text(one.get('release'))}) regressed after it had finished: {text(one.get('reason'))}"
        for one in rollouts
        if one.get("state") == REGRESSED or str(one.get("reason") or "").startswith(_AFTER_ITS_END)
    ]


def rollout_sheet(now: datetime) -> Sheet:
    """Return how rollouts are listed; ages are counted from `now`."""
    return Sheet(
        "rollouts; start one with `edgectl rollout create RELEASE --to SELECTOR`",
        [
            Column("id", lambda r: text(r.get("id")), keep=True),
            Column("release", lambda r: text(r.get("release"))),
            Column("state", state_text),
            Column("stage", _current_stage),
            Column("devices", lambda r: counts_text(r.get("counts"))),
            Column("age", lambda r: age(r.get("started_at") or r.get("created_at"), now), right=True),
            Column("reason", lambda r: text(r.get("reason"))),
            Column("name", lambda r: text(r.get("name")), wide=True),
            Column("selector", lambda r: text(r.get("selector")), wide=True),
            Column("started", lambda r: moment(r.get("started_at")), wide=True),
            Column("finished", lambda r: moment(r.get("finished_at")), wide=True),
            Column("by", lambda r: text(r.get("created_by")), wide=True),
        ],
        lambda r: text(r.get("id")),
    )


def _took(rollout: Json) -> str:
    started, finished = rollout.get("started_at"), rollout.get("finished_at")
    if not isinstance(started, str) or not isinstance(finished, str):
        return "-"
    return duration((datetime.fromisoformat(finished) - datetime.fromisoformat(started)).total_seconds())


HISTORY = Sheet(
    "rollouts of this model",
    [
        Column("id", lambda r: text(r.get("id")), keep=True),
        Column("release", lambda r: text(r.get("release"))),
        Column("ended as", state_text),
        Column("started", lambda r: moment(r.get("started_at") or r.get("created_at"))),
        Column("took", _took, right=True),
        Column("devices", lambda r: counts_text(r.get("counts")), spare=1),
        Column("by", lambda r: text(r.get("created_by")), spare=2),
        Column("reason", lambda r: text(r.get("reason")), wide=True),
        Column("selector", lambda r: text(r.get("selector") or "all devices"), wide=True),
    ],
    lambda r: text(r.get("id")),
)


def status_line(rollout: Json) -> str:
    """Return `r-7 digits@1.1.0 running, stage canary: 1 of 2 healthy; reason`."""
    stage = f", stage {text(_current_stage(rollout))}" if not is_final(rollout) and rollout.get("stage") else ""
    reason = f"; {rollout['reason']}" if rollout.get("reason") else ""
    head = f"{text(rollout.get('id'))} {text(rollout.get('release'))} {state_text(rollout)}{stage}"
    return f"{head}: {counts_text(rollout.get('counts'))}{reason}"


def stage_name(stage: Any, stages: Any) -> str:
    """Return the name of a stage that is given by name or by index into `stages`."""
    if isinstance(stage, int) and not isinstance(stage, bool):
        found = next((entry for entry in stages or [] if entry.get("idx") == stage), None)
        return text(found.get("name")) if found else text(stage)
    return text(stage)


def _current_stage(rollout: Json) -> str:
    return stage_name(rollout.get("stage"), rollout.get("stages"))


def device_sheet(stages: Any = None) -> Sheet:
    """Return how the devices of a rollout are listed; `stages` are the rollout's, to name them."""
    return Sheet(
        "devices of this rollout",
        [
            Column("device", lambda d: text(d.get("device")), keep=True),
            Column("stratum", lambda d: text(d.get("stratum") or d.get("profile"))),
            Column("stage", lambda d: stage_name(d.get("stage"), stages)),
            Column("state", lambda d: text(d.get("state"))),
            Column("running", lambda d: text(d.get("running"))),
            Column("reason", _reason_or_wait),
            Column("waits for", device_wait, wide=True),
            Column("moved by", lambda d: text(d.get("moves")), wide=True),
            Column("retries", lambda d: text(d.get("retries")), wide=True, right=True),
            Column("phase", lambda d: text(d.get("phase")), wide=True),
            Column("attempt", lambda d: text(d.get("attempt")), wide=True, right=True),
            Column("online", lambda d: text(d.get("online")), wide=True),
            Column("failed before", lambda d: text(d.get("failed_before")), wide=True),
            Column("joiner", lambda d: text(d.get("is_joiner")), wide=True),
            Column("offered", lambda d: moment(d.get("offered_at")), wide=True),
            Column("exposed", lambda d: moment(d.get("exposed_at")), wide=True),
            Column("switched", lambda d: moment(d.get("switched_at")), wide=True),
            Column("ended", lambda d: moment(d.get("ended_at")), wide=True),
            Column("deadline", lambda d: moment(d.get("deadline")), wide=True),
        ],
        lambda d: text(d.get("device")),
    )


def device_reason(device: Json) -> str:
    """Return `class: reason` of a device, one of them, or `-`."""
    return ": ".join(str(device[key]) for key in ("error_class", "reason") if device.get(key)) or "-"


def _reason_or_wait(device: Json) -> str:
    """Return the reason of a device, else what it waits for."""
    told = device_reason(device)
    return device_wait(device) if told == "-" else told


def show_head(out: Output, rollout: Json, now: datetime) -> None:
    """Write what a rollout is and how it stands."""
    started = rollout.get("started_at")
    out.fields(
        [
            ("id", text(rollout.get("id"))),
            ("name", text(rollout.get("name"))),
            ("release", text(rollout.get("release"))),
            ("selector", text(rollout.get("selector") or "all devices")),
            ("state", state_text(rollout)),
            ("reason", text(rollout.get("reason"))),
            ("brake", "on: devices that have not switched stop" if rollout.get("is_braked") else ""),
            ("devices", counts_text(rollout.get("counts"))),
            ("all strata", _pooled(rollout.get("pooled"))),
            ("downloads", f"{rollout['downloads']} under way at most" if rollout.get("downloads") else ""),
            ("waits for", "; ".join(wait_lines(rollout))),
            ("created", f"{moment(rollout.get('created_at'))} by {text(rollout.get('created_by'))}"),
            ("started", f"{moment(started)} ({age(started, now)} ago)" if started else ""),
            ("finished", moment(rollout.get("finished_at"))),
        ]
    )


def _pooled(pooled: Any) -> str:
    if not isinstance(pooled, dict) or not pooled.get("exposed"):
        return ""
    told = f"{pooled.get('failed') or 0} of {pooled['exposed']} failed"
    return f"{told}, e {text(pooled.get('e_abort'))} of {text(pooled.get('abort_at'))} to stop all"


def next_steps(rollout: Json) -> str:
    """Return what a person can do now, as commands."""
    id_ = text(rollout.get("id"))
    if rollout.get("state") == "paused":
        return (
            f"`edgectl rollout explain {id_}` says why; `edgectl rollout resume {id_}` goes on, "
            f"`edgectl rollout promote {id_} --reason R` overrides, "
            f"`edgectl rollout abort {id_} --rollback` takes the release back"
        )
    if rollout.get("state") == REGRESSED:
        return (
            f"`edgectl rollout explain {id_}` says what turned bad after it had finished; "
            f"`edgectl rollout abort {id_} --rollback` takes the release back"
        )
    if rollout.get("state") == "awaiting_approval":
        return f"`edgectl rollout approve {id_}` lets it go on, `edgectl rollout deny {id_} --reason R` takes it back"
    if exit_code(rollout) == EXIT_ROLLOUT_FAILED:
        return f"`edgectl rollout explain {id_}` says why, `edgectl rollout devices {id_}` where"
    if exit_code(rollout) == EXIT_TIMEOUT:
        return f"follow it with `edgectl rollout watch {id_}`"
    return ""


PLAN_ROWS = (
    Column("stage", lambda r: r["stage"], keep=True),
    Column("size", lambda r: r["size"]),
    Column("soak", lambda r: r["soak"], right=True),
    Column("stratum", lambda r: r["stratum"]),
    Column("new", lambda r: r["new"], right=True),
    Column("total", lambda r: r["cumulative"], right=True),
    Column("rule", lambda r: r["rule"]),
)
RULE_ROWS = (
    Column("stage", lambda r: r["stage"], keep=True),
    Column("stratum", lambda r: r["stratum"]),
    Column("total", lambda r: r["cumulative"], right=True),
    Column("rule", lambda r: r["rule"]),
    Column("why", lambda r: r["why"]),
)
FINDINGS = Sheet(
    "findings",
    [
        Column("level", lambda f: text(f.get("level")), keep=True),
        Column("stage", lambda f: text(f.get("stage"))),
        Column("stratum", lambda f: text(f.get("stratum"))),
        Column("message", lambda f: text(f.get("message"))),
        Column("next", lambda f: text(f.get("next"))),
        Column("code", lambda f: text(f.get("code")), wide=True),
    ],
    lambda f: text(f.get("code")),
)
PLAN_DEVICES = Sheet(
    "devices get this release",
    [
        Column("stage", lambda d: d["stage"], keep=True),
        Column("stratum", lambda d: d["stratum"]),
        Column("device", lambda d: text(d.get("device")), keep=True),
        Column("why", lambda d: text(d.get("why"))),
    ],
    lambda d: text(d.get("device")),
)
EXCLUDED = (
    Column("device", lambda d: text(d.get("device")), keep=True),
    Column("profile", lambda d: text(d.get("profile"))),
    Column("reason", lambda d: text(d.get("reason"))),
    Column("next", lambda d: text(d.get("next"))),
)


def plan_rows(plan: Json) -> list[Json]:
    """Return one row of texts a stage and stratum."""
    return [
        {
            "stage": text(stage.get("name")),
            "size": text(stage.get("size_text")),
            "soak": duration(stage.get("soak_s")),
            **{key: text(cell.get(key)) for key in ("stratum", "new", "cumulative", "rule", "why")},
        }
        for stage in plan.get("stages") or []
        for cell in stage.get("strata") or []
    ]


def plan_devices(plan: Json) -> list[Json]:
    """Return one row a device, in the order in which they get the release."""
    return list(_plan_devices(plan))


def _plan_devices(plan: Json) -> Iterator[Json]:
    for stage in plan.get("stages") or []:
        for cell in stage.get("strata") or []:
            for device in cell.get("devices") or []:
                yield {"stage": text(stage.get("name")), "stratum": text(cell.get("stratum")), **device}


def findings(plan: Json) -> list[Json]:
    """Return the findings of a plan, errors first, their stages by name."""
    named = [{**entry, "stage": stage_name(entry.get("stage"), plan.get("stages"))} for entry in plan["findings"]]
    return sorted(named, key=lambda entry: entry.get("level") != "error")


def show_short_plan(out: Output, plan: Json) -> None:
    """Write the stages of a plan as one table, and what the lint found."""
    rows = plan_rows(plan)
    if rows:
        out.table(rows, PLAN_ROWS)
    if plan.get("cost"):
        out.note(cost_text(plan["cost"]))
    show_findings(out, plan)


def cost_text(cost: Json) -> str:
    """Return what a plan costs: `12.0 MB to download on 40 devices; 2 devices hold it already, 0 bytes`."""
    downloads, kept = cost.get("downloads") or 0, cost.get("kept") or 0
    told = (
        f"{size(cost.get('bytes') or 0)} to download on {counted(downloads, 'device')}"
        if downloads
        else "nothing to download"
    )
    return f"{told}; {counted(kept, 'device')} hold it in a slot already, 0 bytes" if kept else told


def show_findings(out: Output, plan: Json) -> None:
    """Write what the lint found, if anything."""
    if plan.get("findings"):
        out.heading("Findings")
        out.table(findings(plan), FINDINGS.columns)


def show_lint(out: Output, plan: Json) -> None:
    """Write what the lint found, then the rule of every stage and stratum and why it is this one."""
    if plan.get("findings"):
        out.table(findings(plan), FINDINGS.columns)
        out.line("")
    rows = plan_rows(plan)
    if rows:
        out.table(rows, RULE_ROWS)
    show_power(out, plan)


def show_plan(out: Output, plan: Json) -> None:
    """Write who gets the release, in which stage and why, and who does not."""
    out.fields(
        [
            ("release", text(plan.get("release"))),
            ("selector", text(plan.get("selector") or "all devices")),
            ("matched", counted(plan.get("matched") or 0, "device")),
        ]
    )
    missing = [entry for entry in plan.get("strata") or [] if not entry.get("bundle")]
    for entry in missing:
        population = counted(entry.get("population") or 0, "device")
        out.note(f"no bundle for {entry.get('stratum')}: {population} of it left out")
    show_short_plan(out, plan)
    devices = plan_devices(plan)
    if devices:
        out.heading("Devices")
        out.table(devices, PLAN_DEVICES.columns)
    unlisted = sum(int(row["new"]) for row in plan_rows(plan) if row["new"].isdigit()) - len(devices)
    if devices and unlisted > 0:
        out.note(f"and {counted(unlisted, 'more device')}; a plan names the first 50 of each stage and stratum")
    if plan.get("excluded"):
        out.heading("Not in it")
        out.table(plan["excluded"], EXCLUDED)
