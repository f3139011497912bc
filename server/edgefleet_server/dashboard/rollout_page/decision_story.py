"""The decisions of a rollout as a story: one sentence each, with its evidence in a few words, the newest first. Pure.

Decisions that say the same of several strata at the same moment are one entry. What else happened to the rollout (it was started, a
stage opened, it ended) stands between them; of the same moment it is the newer, for it follows from the decision.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from edgefleet_server.events.model import EventView
from edgefleet_server.rollout.status.decision_views import DecisionView

TWO_DIGITS: Final = 10.0
ENGINE: Final = "engine"
_STAGE_WORDS: Final = {
    "exposing": ("fwd", "run", "Stage {stage} opened{where}"),
    "soaking": ("clock", "run", "Stage {stage}: all devices{where} run it, the soak began"),
}
_ROLLOUT_WORDS: Final = {
    "running": ("play", "run", "{by} started the rollout"),
    "resumed": ("play", "run", "Resumed by {by}"),
    "goes_on": ("play", "run", "Goes on: {reason}"),
    "paused": ("pause", "warn", "Paused: {reason}"),
    "rolling_back": ("undo", "warn", "Devices are sent back"),
    "rolled_back": ("ok", "ok", "Every device is back"),
    "rollback_incomplete": ("warn", "warn", "Some devices have not confirmed that they are back"),
    "cancelled": ("x", "off", "Aborted: {reason}"),
    "superseded": ("swap", "off", "Superseded: {reason}"),
    "finished": ("ok", "ok", "Finished: {reason}"),
    "partial": ("warn", "warn", "Finished in part: {reason}"),
    "regressed": ("bad", "bad", "Regressed: {reason}"),
    "awaiting_approval": ("clock", "warn", "Waits for an approval"),
}


@dataclass(frozen=True, slots=True)
class StoryEntry:
    """One entry. tone: ok, warn, bad, run or off; decisions: those that it tells of; more: the evidence, "" where there is none."""

    at: datetime
    icon: str
    tone: str
    title: str
    more: str = ""
    decisions: Sequence[DecisionView] = ()

    @property
    def agrees(self) -> bool:
        """Whether each of its decisions comes out the same when it is made again."""
        return all(one.agrees for one in self.decisions)


def story(decisions: Sequence[DecisionView], events: Iterable[EventView]) -> list[StoryEntry]:
    """Return the entries, newest first. decisions, events: of the rollout and its stages, newest first."""
    told = [*_of_events(events), *_of_decisions(decisions)]
    return sorted(told, key=lambda one: one.at, reverse=True)


def _of_decisions(decisions: Sequence[DecisionView]) -> list[StoryEntry]:
    groups: dict[tuple[Any, ...], list[DecisionView]] = {}
    for one in decisions:
        groups.setdefault((one.at, one.stage, one.verdict, one.code), []).append(one)
    return [_entry(some) for some in groups.values()]


def _entry(some: Sequence[DecisionView]) -> StoryEntry:
    first = some[0]
    icon, tone, title = _words(first)
    reasons = list(dict.fromkeys(one.reason for one in some))
    if len(some) == 1 or len(reasons) == 1:
        title, told = (
            title.format(stage=first.stage, reason=sentence_of(first.reason)),
            [first.stratum] * (len(some) < 2),
        )
        if "{" in _words(first)[2].replace("{stage}", ""):
            reasons = []
    else:
        title = title.format(stage=first.stage, reason=f"{len(some)} hardware profiles wait")
        told = []
        reasons = [f"{one.stratum}: {one.reason}" for one in some]
    evidence = max((float(one.figures.get("e_abort") or 0.0) for one in some), default=0.0)
    at = float(first.figures.get("abort_at") or 0.0)
    more = [*reasons, *told]
    if at:
        more.append(f"evidence to stop {format(evidence, '.0f' if evidence >= TWO_DIGITS else '.2g')} of {at:.3g}")
    if first.actor != ENGINE:
        more.append(f"decided by {first.actor}")
    text = "; ".join(more)
    is_named = text.startswith(first.stratum)  # a name keeps its small letters
    return StoryEntry(first.at, icon, tone, title, f"{text if is_named else text[:1].upper() + text[1:]}.", tuple(some))


def _words(one: DecisionView) -> tuple[str, str, str]:
    match one.verdict:
        case "advance":
            return "ok", "ok", "Stage {stage} passed"
        case "roll_back":
            return "bad", "bad", "Stage {stage} stopped: {reason}"
        case "pause":
            return "pause", "warn", "Paused: {reason}"
        case _:
            return "wait", "off", "Held: {reason}"


def sentence_of(reason: str) -> str:
    """Return the reason of a decision as it follows a colon: `waiting for 1 of 3 devices to …` is `1 of 3 devices have yet to …`."""
    rest = reason.removeprefix("waiting for ")
    if rest == reason:
        return reason
    who, found, what = rest.partition(" to ")
    verb = "has" if (who.startswith("1 ") and " of " not in who) or who.startswith("1 of") else "have"
    return f"{who} {verb} yet to {what}" if found else rest


def _of_events(events: Iterable[EventView]) -> list[StoryEntry]:
    """Return what became of the rollout and its stages; of strata that move at the same moment once, without their names."""
    some = list(events)
    strata = {one.detail.get("stratum") for one in some if one.detail.get("stratum")}
    groups: dict[tuple[Any, ...], list[EventView]] = {}
    for one in some:
        groups.setdefault((one.kind, one.at, _turn(one), one.detail.get("stage")), []).append(one)
    found = []
    for (kind, at, to, stage), alike in groups.items():
        table = _ROLLOUT_WORDS if kind == "rollout" else _STAGE_WORDS if kind == "stage" else {}
        if to in table:
            icon, tone, words = table[to]
            detail = alike[0].detail
            where = f" of {detail.get('stratum')}" if len(alike) == 1 < len(strata) else ""
            by, why = detail.get("actor") or "Somebody", str(detail.get("reason") or "")
            by = "The server" if by == ENGINE else by
            title = words.format(stage=stage, by=by, reason=why.removeprefix("finished "), where=where)
            found.append(StoryEntry(at, icon, tone, title.removesuffix(": ")))
    return found


def _turn(one: EventView) -> str:
    """Return the key of its words: the state that it came into, told apart by where from and how."""
    to, before = str(one.detail.get("to") or ""), one.detail.get("from")
    if one.kind != "rollout":
        return to
    if to == "running" and before not in ("draft", "validating"):
        return "resumed" if before == "paused" else "goes_on"
    return "partial" if to == "finished" and one.detail.get("code") == "partial" else to
