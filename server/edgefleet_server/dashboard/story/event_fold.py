"""Folds what happened into lines: by rollout and stage, by release, by kind, and by time. Pure.

Rules:
1. What devices and the server write down of one stage of a rollout is one line, however long it took, and so is what a device says of
   its own failure there; each turn of the rollout itself (started, paused, rolled back, finished, stopped) is a line of its own.
2. Everything else is one line with what is like it and follows within GAP of the last one of it.
3. Nothing is left out: every event is in exactly one line, and the numbers of events add up.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any, Final

from edgefleet_protocol.errors import EdgefleetError
from edgefleet_protocol.ids import parse_target_path
from edgefleet_server.dashboard.story.model import Happening, Story, Thread
from edgefleet_server.dashboard.story.thread_text import line_of
from edgefleet_server.events.model import EventView

GAP: Final = timedelta(minutes=10)
BRIEF: Final = timedelta(minutes=1)
"""Between devices that disappear: more apart is another cause."""
TURNS: Final[Mapping[str, str]] = {
    "draft": "started",
    "validating": "started",
    "awaiting_approval": "started",
    "running": "started",
    "paused": "paused",
    "rolling_back": "back",
    "rolled_back": "back",
    "rollback_incomplete": "back",
    "regressed": "back",
    "finished": "finished",
    "superseded": "stopped",
    "cancelled": "stopped",
}
AGAIN: Final = ("paused", "finished")
INSTALLS: Final = ("assignment", "stage", "confirmation", "phase", "desired", "candidate")
OWN_WORDS: Final = ("rollback", "quarantined")
"""What a device says when it did not keep a release."""
TOGETHER: Final[Mapping[str, str]] = {
    "approved": "enrolled", "pending": "enrolled", "rejected": "enrolled", "drift_over": "drift", "task_asked": "task",
    "cut_off": "revoked", "revocation_in_force": "revoked", "golden_mismatch": "crash", "quarantined": "crash",
}  # fmt: skip
"""Kinds that tell the same thing as another."""
BY_MODEL: Final = ("drift", "crash", "rollback", "drift_baseline")


def happening_of(event: EventView, site: str = "") -> Happening:
    """Return an event as what happened. site: of its device."""
    said, inner = event.detail, event.detail.get("detail")
    own: Mapping[str, Any] = inner if isinstance(inner, Mapping) else {}

    def text(name: str) -> str:
        return str(said.get(name) or own.get(name) or "")

    actor = text("by") or text("actor")
    return Happening(
        at=event.received_at,
        kind=event.kind,
        device=event.device,
        name=event.display_name,
        site=site,
        model=event.model,
        release=text("release") or _release(text("target")),
        rollout=event.rollout or "",
        stage=text("stage"),
        to=text("to") or text("phase"),
        before=text("from"),
        by="" if actor == "engine" else actor,
        reason=text("reason"),
        title=text("title") or text("task_kind") or text("rule"),
        about=f"{text('rule')} {text('group')}".strip() if event.kind == "alert" else "",
        event=event.id,
    )


def folded(happened: Iterable[Happening], *, most: int = 0, is_cut: bool = False) -> Story:
    """Return the story of what happened, newest first. most: lines shown, 0 = all."""
    found = sorted(threads(happened), key=lambda one: (one.last.at, one.first.at), reverse=True)
    lines = [line_of(one) for one in found]
    shown = lines[:most] if most else lines
    return Story(shown, sum(one.events for one in lines), len(lines) - len(shown), is_cut)


def threads(happened: Iterable[Happening]) -> list[Thread]:
    """Return what happened in threads, each in order of time."""
    ordered = sorted(happened, key=lambda one: one.at)
    stages = _stages(ordered)
    found: dict[tuple[str, ...], list[list[Happening]]] = {}
    for one in ordered:
        key = _key(one, stages)
        mine = found.setdefault(key, [])
        gap = None if key[0] == "install" and key[2] else BRIEF if key[0] == "offline" else GAP
        if mine and (gap is None or one.at - mine[-1][-1].at <= gap):
            mine[-1].append(one)
        else:
            mine.append([one])
    return [Thread(key[0], tuple(rows)) for key, mine in found.items() for rows in mine]


def _stages(ordered: Sequence[Happening]) -> dict[tuple[str, str], tuple[str, str]]:
    """Return the rollout and stage in which a device got a release: what a device says does not name them."""
    return {
        (one.device, one.release): (one.rollout, one.stage)
        for one in ordered
        if one.kind == "assignment" and one.rollout
    }


def _key(one: Happening, stages: Mapping[tuple[str, str], tuple[str, str]]) -> tuple[str, ...]:
    if one.kind == "rollout":
        turn = "resumed" if one.to == "running" and one.before in AGAIN else TURNS.get(one.to, "started")
        return ("rollout", one.rollout, turn)
    if one.kind in INSTALLS or (one.kind in OWN_WORDS and (one.device, one.release) in stages):
        rollout, stage = one.rollout, one.stage
        if not rollout:
            rollout, stage = stages.get((one.device, one.release), ("", ""))
        return ("install", one.release or one.model, rollout, stage)
    kind = TOGETHER.get(one.kind, one.kind)
    if kind in {"offline", "enrolled"}:
        return (kind, one.site if kind == "offline" else "")
    if kind in BY_MODEL:
        return (kind, one.model)
    if kind in {"release", "published"}:
        return (kind, one.release, one.to)
    return (kind, one.about or one.title if kind in {"alert", "task"} else "")


def _release(target: str) -> str:
    try:
        model, version, _ = parse_target_path(target)
    except EdgefleetError:
        return ""
    return f"{model}@{version}"
