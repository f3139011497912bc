"""What people see of approvals, of rates, and of why a rollout, its stages and its devices do not move. Pure.

Waits are the planner's report (`planner.blockers`), counted. A stage and a rollout wait for what their devices wait for: the same codes
with counts, the soonest moment first. The names of the fields are public: never renamed.
"""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from edgefleet_server.rollout import admission
from edgefleet_server.rollout.admission import NEW
from edgefleet_server.rollout.commands.steer import ABORTED
from edgefleet_server.rollout.commands.undo import UNDONE
from edgefleet_server.rollout.effects import Blocked, StepReport
from edgefleet_server.rollout.model import Lot, RolloutState, Snapshot, StageRun, StageState, Wait
from edgefleet_server.rollout.planner.blockers import TURN
from edgefleet_server.rollout.spec.model import Spec


@dataclass(frozen=True)
class ApprovalView:
    """The approval that a stage needs in a stratum. asked_at, until: null before the stage comes to it; approved_by: "" = nobody."""

    role: str
    timeout_s: float
    asked_at: datetime | None
    until: datetime | None
    approved_by: str


def approval_view(spec: Spec, cell: StageRun) -> ApprovalView | None:
    """Return the approval of a cell, None when it needs none."""
    wanted = spec.stages[cell.stage].approval
    if wanted is None:
        return None
    until = None if cell.asked_at is None or cell.approved_by else cell.asked_at + wanted.timeout
    return ApprovalView(wanted.role.value, wanted.timeout.total_seconds(), cell.asked_at, until, cell.approved_by)


TIME: Final = "time"
"""What moves something that only has to wait, the word that `moves` of a wait then begins with."""
_BY_HAND: Final = {code: re.compile(rf"\b{code} by (.+?)(?:: |; |$)") for code in (ABORTED, UNDONE)}
_AT_ONCE: Final = frozenset({TURN, NEW})
_VERBS: Final = {"is": "are", "has": "have", "was": "were", "waits": "wait"}
_NEVER: Final = datetime.max.replace(tzinfo=UTC)
_DEVICES_MOVE: Final = frozenset({RolloutState.RUNNING, RolloutState.ROLLING_BACK})


@dataclass(frozen=True)
class WaitView:
    """What some devices wait for. count: how many; reason: of the one that moves first; until: when, where it is known.

    text: the same as a sentence without its full stop, with the count. next: what moves it, "" where only time does. at: the word
    before `until` in a text, "" where the time says nothing to people.
    """

    code: str
    count: int
    reason: str
    moves: str
    until: datetime | None
    text: str = ""
    next: str = ""
    at: str = ""


@dataclass(frozen=True)
class RateView:
    """The ramp of a stage. per_min: of this minute; offered: in it so far; until: when the next one begins at the soonest."""

    per_min: int
    offered: int
    failed: int
    next_per_min: int
    until: datetime | None


def stage_waits(report: StepReport, index: int, lots: Iterable[Lot]) -> list[WaitView]:
    """Return what a stage waits for: a person, its devices (lots: of it), the stage before it; where there is nothing, its verdict."""
    here = [one for one in report.blocked if one.stage == index]
    held = [_view(one) for one in here if one.state is StageState.HELD]
    unopened = [_view(one) for one in here if one.state is StageState.PENDING]
    verdicts = [_view(one) for one in here if one.state in (StageState.SOAKING, StageState.JUDGING)]
    devices = together((report.waits[a.device], n) for a, n in lots if a.device in report.waits)
    return [*held, *devices, *unopened] or verdicts


def rollout_waits(report: StepReport, state: RolloutState, lots: Iterable[Lot]) -> list[WaitView]:
    """Return what a rollout waits for: others, a person, or what its devices wait for; nothing only once it is over for good."""
    counts = {a.device: n for a, n in lots}
    devices = (
        together((wait, counts[device]) for device, wait in report.waits.items()) if state in _DEVICES_MOVE else []
    )
    return devices or [_view(one) for one in report.blocked if one.stage is None]


def _view(blocked: Blocked) -> WaitView:
    wait = blocked.wait
    return _in_words(wait, blocked.count, wait.reason[:1].upper() + wait.reason[1:])


def _in_words(wait: Wait, count: int, text: str) -> WaitView:
    next_step, at = next_of(wait.moves)
    if wait.code in _AT_ONCE:
        next_step, at = "", ""
    return WaitView(
        wait.code, count, wait.reason, wait.moves, wait.until, text, next_step, at if wait.until is not None else ""
    )


def next_of(moves: str) -> tuple[str, str]:
    """Return what moves something as people read it, and the word before its time: `time` is no step, it only passes."""
    return ("", "until") if moves.partition(":")[0] == TIME else (moves, "at")


def of_device(reason: str) -> str:
    """Return what one device waits for as part of a sentence about it: `it is healthy and soaking`."""
    return f"it {reason}" if reason.partition(" ")[0] in _VERBS else reason


def devices_text(reason: str, count: int) -> str:
    """Return what so many devices wait for: `1 device is healthy and soaking`, `4 devices are healthy and soaking`."""
    verb, _, rest = reason.partition(" ")
    noun = "1 device" if count == 1 else f"{count} devices"
    if verb not in _VERBS:
        return f"{noun} waiting: {reason}"
    return f"{noun} {verb if count == 1 else _VERBS[verb]} {rest}"


def together(waits: Iterable[tuple[Wait, int]]) -> list[WaitView]:
    """Return waits, each with how many devices have it, by code, the most frequent first."""
    groups: dict[str, list[Wait]] = {}
    devices: Counter[str] = Counter()
    for wait, n in waits:
        groups.setdefault(wait.code, []).append(wait)
        devices[wait.code] += n
    views = []
    for code, some in groups.items():
        first = min((wait for wait in some if wait.until), key=lambda wait: wait.until or _NEVER, default=some[0])
        views.append(_in_words(first, devices[code], devices_text(first.reason, devices[code])))
    return sorted(views, key=lambda view: (-view.count, view.code))


def stopped_by(code: str, reason: str) -> str:
    """Return who ended a rollout or a stage by hand, "" where nobody did. Such a reason is `aborted by NAME: why`, or `undone by`."""
    found = _BY_HAND[code].search(reason) if code in _BY_HAND else None
    return found.group(1) if found is not None else ""


def rate_view(snapshot: Snapshot, index: int, now: datetime) -> RateView | None:
    """Return how fast a stage goes, None when it has no rate."""
    rate = snapshot.spec.stages[index].rate
    if rate is None:
        return None
    known = next((one for one in snapshot.pace.minutes if one.stage == index), None)
    if known is None:
        return RateView(rate.start, 0, 0, rate.start, None)
    minute = admission.minute_at(rate, index, known, now)
    until = minute.began_at + admission.MINUTE
    return RateView(minute.per_min, minute.offered, minute.failed, admission.next_rate(rate, minute), until)
