"""How events are shown: those of devices, and those of rollouts with who changed what, from which state to which, and why."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from edgefleet_cli.core import api
from edgefleet_cli.core.structs import UNSET, Struct
from edgefleet_cli.core.transport.reply import struct_of
from edgefleet_cli.render.format import moment, pairs, text
from edgefleet_cli.render.output import Column, Sheet
from edgefleet_terms.rollout_states import shown_state

_TRANSITIONS = frozenset({"rollout", "stage", "confirmation", "assignment"})


class Detail(Struct, frozen=True, rename={"origin": "from"}):
    """What the details of events have in common: of a change of state, or of what a device reported. The rest is for `-o json`."""

    to: Any = UNSET
    origin: Any = None
    stage: Any = None
    stratum: Any = None
    actor: Any = None
    error_class: Any = None
    reason: Any = None
    target: Any = None
    phase: Any = None
    code: Any = None


def what(event: api.fleet.Event) -> str:
    """Return an event in a few words; what is left out is in `-o wide` and `-o json`."""
    detail = struct_of(event.detail, Detail)
    if event.kind not in _TRANSITIONS or detail.to is UNSET:
        return _report(detail)
    return _transition(detail, shown_state if event.kind == "rollout" else str)


def _transition(detail: Detail, shown_as: Callable[[str], str]) -> str:
    """Return `canary/generic-x86_64-ort soaking → passed by engine: 4 of 4 healthy`. shown_as: returns a state as it is shown."""
    place = "/".join(text(part) for part in (detail.stage, detail.stratum) if part not in {None, ""})
    after = shown_as(str(detail.to))
    shown = f"{shown_as(str(detail.origin))} → {after}" if detail.origin else f"→ {after}"
    if detail.to == "regressed":
        shown += " (regressed after it had finished)"
    words = [place, shown, f"by {detail.actor}" if detail.actor else ""]
    reasons = [str(part) for part in (detail.error_class, detail.reason) if part]
    return ": ".join([" ".join(word for word in words if word), *reasons])


def _report(detail: Detail) -> str:
    """Return release, phase, error and reason of what a device reported."""
    target = str(detail.target or "")
    release = "@".join(target.split("/")[:2]) if target.count("/") == 2 else ""
    shown = " ".join(str(word) for word in (release, detail.phase, detail.error_class, detail.code) if word)
    return f"{shown}: {detail.reason}" if shown and detail.reason else str(detail.reason or shown or "-")


EVENTS: Sheet[api.fleet.Event] = Sheet(
    "events",
    [
        Column("at", lambda e: moment(e.at), keep=True),
        Column("kind", lambda e: text(e.kind)),
        Column("name", lambda e: text(e.display_name or None)),
        Column("device", lambda e: text(e.device)),
        Column("model", lambda e: text(e.model), spare=1),
        Column("what", what),
        Column("rollout", lambda e: text(e.rollout), wide=True),
        Column("detail", lambda e: pairs(e.detail), wide=True),
        Column("received", lambda e: moment(e.received_at), wide=True),
    ],
    lambda e: text(e.id),
)
