"""Which events are marks of a chart. Pure.

Marks that say the same within one step are one, with their number: a thousand devices that report drift are one triangle.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from edgefleet_server.events.model import EventView
from edgefleet_server.fleet.presence.model import Absence, absence_words
from edgefleet_server.telemetry.timelines.model import Mark, MarkKind, Scope

KINDS: Final = ("rollout", "alert")
DEVICE_KINDS: Final = ("desired", "rollback", "alert")
"""Of a device: what was deployed to it also without a rollout."""
DRIFT_KINDS: Final = ("drift", "drift_over")
MOST_TEXT: Final = 120
_ROLLOUT: Final[Mapping[str, tuple[MarkKind, str]]] = {
    "running": (MarkKind.DEPLOY, "{release} begins"),
    "finished": (MarkKind.DEPLOYED, "{release} is everywhere"),
    "paused": (MarkKind.PAUSE, "{release} pauses"),
    "rolling_back": (MarkKind.ROLLBACK, "{release} goes back"),
    "rollback_incomplete": (MarkKind.ROLLBACK, "{release} could not go back everywhere"),
    "regressed": (MarkKind.ROLLBACK, "{release} got worse after it was rolled out"),
}
_AGAIN: Final = frozenset({"paused", "finished"})
"""States after which `running` is no deploy."""


def marks_of(events: Sequence[EventView], scope: Scope, name: str, step_s: int) -> list[Mark]:
    """Return what happened, oldest first: of a model what concerns it, of a group or the fleet everything."""
    found: dict[tuple[Any, ...], Mark] = {}
    for event in sorted(events, key=lambda one: (one.at, one.id)):
        mark = _mark(event)
        if mark is None or (scope is Scope.MODEL and not _concerns(event, mark, name)):
            continue
        key = (mark.kind, mark.title, mark.model, int(mark.at.timestamp()) // step_s)
        known = found.get(key)
        found[key] = mark if known is None else _joined(known, mark)
    return list(found.values())


def marks_of_absences(absences: Sequence[Absence], device: str, step_s: int) -> list[Mark]:
    """Return when a device went offline, as far as the server saw it; what began in one step is one mark."""
    steps: dict[int, list[Absence]] = {}
    for one in absences:
        if one.is_heard:
            steps.setdefault(int(one.since.timestamp()) // step_s, []).append(one)
    found = []
    for mine in steps.values():
        title = absence_words(mine[0]).removeprefix("was ") if len(mine) == 1 else "offline"
        n = 1 if len(mine) == 1 else sum(one.times for one in mine)
        found.append(Mark(mine[0].since, MarkKind.OFFLINE, title, device=device, n=n))
    return found


def _joined(known: Mark, mark: Mark) -> Mark:
    device = known.device if known.device == mark.device else ""
    return Mark(known.at, known.kind, known.title, known.model, known.rollout, device, known.n + mark.n)


def _mark(event: EventView) -> Mark | None:
    match event.kind:
        case "rollout":
            return _of_rollout(event)
        case "alert":
            return _of_alert(event)
        case "drift" | "drift_over":
            return _of_drift(event)
        case "desired":
            release = _text(event.detail, "release")
            title = f"{release} deployed" if release else "deployment changed"
            return Mark(event.received_at, MarkKind.DEPLOY, title, event.model, event.rollout or "", event.device)
        case "rollback":
            said = _inner(event.detail)
            title = f"{event.model or 'it'} went back" + (f": {_text(said, 'reason')}" if _text(said, "reason") else "")
            return Mark(event.at, MarkKind.ROLLBACK, title, event.model, event.rollout or "", event.device)
        case _:
            return None


def _of_rollout(event: EventView) -> Mark | None:
    to, before = _text(event.detail, "to"), _text(event.detail, "from")
    known = _ROLLOUT.get(to)
    if known is None or (to == "running" and before in _AGAIN):
        return None
    kind, title = known
    release = _text(event.detail, "release") or event.model
    return Mark(event.at, kind, title.format(release=release), event.model, event.rollout or "")


def without_severity(title: str) -> str:
    """Return the title of an alert's message without its severity in brackets, which pages say by an icon."""
    return re.sub(r"^\[\w+\] ", "", title)


def _of_alert(event: EventView) -> Mark:
    is_over = _text(event.detail, "to") == "resolved"
    kind = MarkKind.ALERT_OVER if is_over else MarkKind.ALERT
    title = without_severity(_text(event.detail, "title")) or _text(event.detail, "rule") or "alert"
    return Mark(event.at, kind, title, event.model, "", event.device)


def _of_drift(event: EventView) -> Mark:
    said = _inner(event.detail)
    is_over = event.kind == "drift_over"
    signal = _text(said, "signal") or "a signal"
    title = f"{signal} is as before" if is_over else f"{signal} drifts"
    kind = MarkKind.DRIFT_OVER if is_over else MarkKind.DRIFT
    return Mark(event.received_at, kind, title, event.model, "", event.device)


def _concerns(event: EventView, mark: Mark, model: str) -> bool:
    if mark.kind not in {MarkKind.ALERT, MarkKind.ALERT_OVER}:
        return event.model == model
    listed = [one for name in ("alerts", "ended") for one in event.detail.get(name) or () if isinstance(one, Mapping)]
    named = ((one.get("model"), str(one.get("subject")).removeprefix("model:").partition("@")[0]) for one in listed)
    return any(model in one for one in named)


def _inner(detail: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what a device said, in an event that it sent."""
    inner = detail.get("detail")
    return inner if isinstance(inner, Mapping) else detail


def _text(said: Mapping[str, Any], name: str) -> str:
    return str(said.get(name) or "")[:MOST_TEXT]


def between(marks: Sequence[Mark], since: datetime, until: datetime) -> list[Mark]:
    """Return the marks of a span of time."""
    return [one for one in marks if since <= one.at <= until]
