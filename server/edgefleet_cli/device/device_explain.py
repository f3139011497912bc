"""Why a device does not run what it should, one line a model: what is between the wish and the report, and what would move it. Pure."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from edgefleet_cli.render.format import age, error_text, text
from edgefleet_cli.render.output import Column, Sheet
from edgefleet_protocol.labels import PIN_LABEL
from edgefleet_protocol.messages import CHILD_DIED_CODE, SPREAD_CODE

Json = dict[str, Any]

_UNDER_WAY = {
    "downloading": "it downloads the bundle",
    "verifying": "it checks the bundle's signature and digest",
    "preflight": "it looks whether disk and memory suffice",
    "golden": "it answers the golden inputs",
    "warming": "the new version warms up beside the old one",
    "switching": "it switches to the new version",
    "probation": "it runs the new version on probation; without traffic that takes its `probation_s`, half an hour unless set",
}

WHY = Sheet(
    "models on this device",
    [
        Column("model", lambda w: text(w.get("model")), keep=True),
        Column("should run", lambda w: text(w.get("wanted"))),
        Column("runs", lambda w: text(w.get("running"))),
        Column("why", lambda w: text(w.get("why"))),
        Column("next", lambda w: text(w.get("next"))),
        Column("rollout", lambda w: text(w.get("rollout")), wide=True),
    ],
    lambda w: text(w.get("model")),
)


def reasons(device: Json, places: dict[str, Json], now: datetime) -> list[Json]:
    """Return one row a model. places: by model, the device's place in a rollout that is not settled, with its id and if it regressed."""
    wanted = {str(one["model"]): one for one in (device.get("desired") or {}).get("models") or []}
    reported = {str(one["model"]): one for one in device.get("models") or []}
    rows = []
    for model in sorted({*wanted, *reported, *places}):
        why, next_step = _reason(device, wanted.get(model), reported.get(model), now)
        place = places.get(model)
        if place is not None:
            why, next_step = _with_place(why, next_step, place)
        rows.append(
            {
                "model": model,
                "wanted": (wanted.get(model) or {}).get("release"),
                "running": (reported.get(model) or {}).get("release"),
                "is_settled": not next_step and "as it should" in why,
                "why": why,
                "next": next_step,
                "rollout": (place or {}).get("rollout"),
            }
        )
    return rows


def _reason(device: Json, wanted: Json | None, report: Json | None, now: datetime) -> tuple[str, str]:
    """Return why, and what to do; the first thing on the way from the document to the report that is not as it should be."""
    ident = text(device.get("id"))
    gen = int((device.get("desired") or {}).get("gen") or 0)
    refused = device.get("refused")
    if isinstance(refused, dict) and int(refused.get("gen") or 0) >= gen > int(device.get("reported_gen") or 0):
        told = f"it refused document {refused.get('gen')}: {refused.get('code')}: {refused.get('reason')}"
        return told, f"`edgectl device logs {ident}`"
    if isinstance(refused, dict) and refused.get("code") == CHILD_DIED_CODE:
        told = f"its document waits there: {refused.get('code')}: {refused.get('reason')}"
        return told, f"nothing, or make room: `edgectl device logs {ident}` tells what its memory or disk says"
    if isinstance(refused, dict) and not refused.get("gen"):
        told = f"it has seen newer metadata than the server has: {refused.get('code')}: {refused.get('reason')}"
        return told, "nothing: the server signs it anew by itself; its log says why when it does not"
    if wanted is None and report is None:
        return "nothing of it is wanted here yet", ""
    if report is not None and wanted is not None and _is_settled(wanted, report):
        return "it runs as it should", ""
    if device.get("status") in {"offline", "unknown"}:
        seen = age(device.get("last_seen"), now)
        since = "was never seen" if seen == "-" else f"was last seen {seen} ago"
        return (
            f"it is {device['status']} and {since}; it learns of the wish when it connects",
            "see the device's network",
        )
    if int(device.get("reported_gen") or 0) < gen:
        told = f"it has not taken up document {gen} yet, only {device.get('reported_gen')}"
        return told, f"`edgectl device logs {ident}`"
    if wanted is None:
        return "it is to be removed", "it does so after its present work"
    return _progress(ident, wanted, report)


def _is_settled(wanted: Json, report: Json) -> bool:
    return wanted.get("sha256") == report.get("sha256") and report.get("phase") == "committed"


def _progress(ident: str, wanted: Json, report: Json | None) -> tuple[str, str]:
    if report is None:
        return "it has not begun", f"`edgectl device logs {ident}`"
    phase = str(report.get("phase") or "")
    if report.get("error_code") == SPREAD_CODE:
        return text(report.get("reason")), "nothing: it begins by itself"
    if report.get("wanted_sha256") != wanted.get("sha256"):
        return "it has the document and has not begun with this bundle", f"`edgectl device logs {ident}`"
    if phase in _UNDER_WAY:
        done = report.get("progress_pct")
        share = f" ({done} %)" if phase == "downloading" and done else ""
        return _UNDER_WAY[phase] + share, f"`edgectl device show {ident}`"
    told = error_text(report) or f"it says {phase or 'nothing'}"
    return (
        f"{phase.replace('_', ' ')}: {told}",
        f"`edgectl device diag {ident}`; a release that failed is not tried again",
    )


def _with_place(why: str, next_step: str, place: Json) -> tuple[str, str]:
    """Add what an open rollout says of the device."""
    rollout = text(place.get("rollout"))
    regressed = ", which turned out bad after it had finished," if place.get("is_regressed") else ""
    told = [f"in {rollout}{regressed} it is {text(place.get('state'))}"]
    if place.get("waits_for"):
        told.append(f"waits for {place['waits_for']}")
    elif place.get("reason"):
        told.append(str(place["reason"]))
    moved = str(place.get("moves") or "")
    return f"{why}; {', '.join(told)}", moved or next_step or f"`edgectl rollout explain {rollout}`"


def pin_text(device: Json) -> str:
    """Return why a device takes no part in rollouts, "" when it does."""
    labels = device.get("labels") or {}
    return "" if PIN_LABEL not in labels else str(labels[PIN_LABEL]) or "no reason given"
