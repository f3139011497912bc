"""How events are shown: those of devices, and those of rollouts with who changed what, from which state to which, and why."""

from __future__ import annotations

from typing import Any

from edgefleet_cli.render.format import moment, pairs, text
from edgefleet_cli.render.output import Column, Sheet

Json = dict[str, Any]

_TRANSITIONS = frozenset({"rollout", "stage", "assignment"})


def what(event: Json) -> str:
    """Return an event in a few words; what is left out is in `-o wide` and `-o json`."""
    detail = event.get("detail") or {}
    return _transition(detail) if event.get("kind") in _TRANSITIONS and "to" in detail else _report(detail)


def _transition(detail: Json) -> str:
    """Return `canary/generic-x86_64-ort soaking → passed by engine: 4 of 4 healthy`."""
    place = "/".join(text(detail[key]) for key in ("stage", "stratum") if detail.get(key) not in {None, ""})
    told = f"{detail['from']} → {detail['to']}" if detail.get("from") else f"→ {detail['to']}"
    if detail.get("to") == "regressed":
        told += " (it had finished, and turned out bad)"
    words = [place, told, f"by {detail['actor']}" if detail.get("actor") else ""]
    reasons = [str(detail[key]) for key in ("error_class", "reason") if detail.get(key)]
    return ": ".join([" ".join(word for word in words if word), *reasons])


def _report(detail: Json) -> str:
    """Return release, phase, error and reason of what a device reported."""
    target = str(detail.get("target") or "")
    words = ["@".join(target.split("/")[:2]) if target.count("/") == 2 else "", detail.get("phase")]
    words += [detail.get("error_class"), detail.get("code")]
    told = " ".join(str(word) for word in words if word)
    reason = detail.get("reason")
    return f"{told}: {reason}" if told and reason else str(reason or told or "-")


EVENTS = Sheet(
    "events",
    [
        Column("at", lambda e: moment(e.get("at")), keep=True),
        Column("kind", lambda e: text(e.get("kind"))),
        Column("device", lambda e: text(e.get("device"))),
        Column("model", lambda e: text(e.get("model"))),
        Column("what", what),
        Column("rollout", lambda e: text(e.get("rollout") or e.get("rollout_id")), wide=True),
        Column("detail", lambda e: pairs(e.get("detail")), wide=True),
        Column("received", lambda e: moment(e.get("received_at")), wide=True),
    ],
    lambda e: text(e.get("id")),
)
