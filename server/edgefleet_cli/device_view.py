"""How devices are shown: the row of a list, and what a device runs, wants and lacks in a few words."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from edgefleet_cli.figures import age, error_text, pairs, size, text
from edgefleet_cli.output import Column, Sheet

Json = dict[str, Any]


def device_sheet(now: datetime) -> Sheet:
    """Return how devices are listed; ages are counted from `now`."""
    return Sheet(
        "devices; enrol one with `edgectl device enroll`",
        [
            Column("id", lambda d: text(d.get("id")), keep=True),
            Column("profile", lambda d: text(d.get("profile"))),
            Column("status", lambda d: text(d.get("status"))),
            Column("models", _models),
            Column("error", errors_of),
            Column("seen", lambda d: age(d.get("last_seen"), now), right=True),
            Column("labels", lambda d: pairs(d.get("labels"))),
            Column("desired", _desired, wide=True),
            Column("gen", lambda d: f"{d.get('reported_gen')}/{d['desired'].get('gen')}", wide=True, right=True),
            Column(
                "free", lambda d: size(d["free_mb"] * 1_000_000) if d.get("free_mb") else "-", wide=True, right=True
            ),
            Column("agent", lambda d: text(d.get("agent_version")), wide=True),
            Column("arch", lambda d: text(d.get("arch")), wide=True),
        ],
        lambda d: text(d.get("id")),
    )


def _models(device: Json) -> str:
    shown = []
    for model in device.get("models") or []:
        running = model.get("release") or f"{model.get('model')} -"
        phase = model.get("phase")
        beside = _beside(model.get("candidate"))
        shown.append((running if phase == "committed" else f"{running} ({phase})") + beside)
    return ", ".join(shown) or "-"


def _beside(candidate: Json | None) -> str:
    """Return what runs beside a model's active version, for its line."""
    if not candidate:
        return ""
    share = f" {candidate.get('share_pct')} %" if candidate.get("mode") == "split" else ""
    state = candidate.get("state")
    return f" + {candidate.get('mode')}{share} {candidate.get('release')}" + (
        "" if state == "running" else f" ({state})"
    )


def _desired(device: Json) -> str:
    return ", ".join(str(model.get("release")) for model in device["desired"].get("models") or []) or "-"


def errors_of(device: Json) -> str:
    refused = device.get("refused")
    found = [f"{refused.get('code')}: {refused.get('reason')}"] if isinstance(refused, dict) else []
    found += [told for model in device.get("models") or [] if (told := error_text(model))]
    return "; ".join(found) or "-"
