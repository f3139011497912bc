"""What people see of approvals, of rates, and of why a rollout, its stages and its devices do not move. Pure.

Waits are the planner's report (`planner.blockers`), counted. A stage and a rollout wait for what their devices wait for: the same codes
with counts, the soonest moment first. The names of the fields are public: never renamed.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from edgefleet_server.rollout import admission
from edgefleet_server.rollout.effects import Blocked, StepReport
from edgefleet_server.rollout.model import Lot, RolloutState, Snapshot, StageRun, StageState, Wait
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


_NEVER: Final = datetime.max.replace(tzinfo=UTC)
_DEVICES_MOVE: Final = frozenset({RolloutState.RUNNING, RolloutState.ROLLING_BACK})


@dataclass(frozen=True)
class WaitView:
    """What some devices wait for. count: how many; reason: of the one that moves first; until: when, where it is known."""

    code: str
    count: int
    reason: str
    moves: str
    until: datetime | None


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
    return WaitView(wait.code, blocked.count, wait.reason, wait.moves, wait.until)


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
        views.append(WaitView(code, devices[code], first.reason, first.moves, first.until))
    return sorted(views, key=lambda view: (-view.count, view.code))


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
