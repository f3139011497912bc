"""What a running rollout does now, and when it decides next: one sentence for people, and the same as numbers. Pure.

The stored reason of a rollout says why it came into its state; while it runs, people want to know what goes on. Devices are counted
over the stages that are open, in all strata, each with the stages before it, as its gates count them. The names of the fields and the
phases are public: never renamed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from edgefleet_protocol.messages import AssignmentState
from edgefleet_server.rollout.analysis.decide import WORD_OPEN
from edgefleet_server.rollout.commands.retry import RETRIED
from edgefleet_server.rollout.model import Assignment, Lot, RolloutState, Snapshot, StageRun, StageState
from edgefleet_server.rollout.planner import completion
from edgefleet_server.rollout.state_machines import IN_FLIGHT, OUTSIDE, is_exposed, is_failure, soak_end

_S: Final = AssignmentState
_FIRST: Final = "Waiting for the first devices"
_OPEN_TRY: Final = IN_FLIGHT | {_S.ELIGIBLE}
_OPEN: Final = (StageState.EXPOSING, StageState.SOAKING, StageState.JUDGING)
"""Open stages, the least advanced first: what the slowest stratum does is what the rollout does."""


@dataclass(frozen=True)
class OutlookView:
    """What a running rollout does. phase: waiting, installing, soaking, judging, opening, rolling_back, finishing.

    of: devices of the open stages; of those, soaking: run it and have not for their whole soak; healthy: have; on_probation: under way.
    next_decision_at: when a stage is judged next, null where that depends on reports.
    """

    phase: str
    text: str
    healthy: int = 0
    failed: int = 0
    on_probation: int = 0
    of: int = 0
    next_decision_at: datetime | None = None
    soaking: int = 0


def outlook(snapshot: Snapshot, lots: Sequence[Lot], now: datetime) -> OutlookView | None:
    """Return what a rollout does at `now`, None for one that does not run."""
    if snapshot.state is not RolloutState.RUNNING:
        return None
    runs = [run for run in snapshot.cells if run.state in _OPEN]
    if not runs:
        if snapshot.code == RETRIED and any(a.state in _OPEN_TRY for a, _ in lots):
            return OutlookView("installing", snapshot.reason)
        return _between_stages(snapshot.cells, owed=sum(n for a, n in lots if completion.owes_confirmation(a)))
    mine = [(a, n) for a, n in lots if _is_in(snapshot, a, runs)]
    running = [(a, n) for a, n in mine if a.state is _S.HEALTHY and not is_failure(a)]
    soaking = sum(n for a, n in running if soak_end(snapshot, a, now) > now)
    healthy = sum(n for _, n in running) - soaking
    failed = sum(n for a, n in mine if is_failure(a) and not a.is_accepted)
    probation = sum(n for a, n in mine if a.state is _S.VERIFYING)
    of = sum(n for a, n in mine if is_failure(a) or a.state not in OUTSIDE)
    state = min((run.state for run in runs), key=_OPEN.index)
    phase, doing = _phase(state, has_begun=any(is_exposed(a) for a, _ in mine))
    figures = {"healthy": healthy, "soaking": soaking, "failed": failed, "on probation": probation}
    text = doing if phase == "waiting" or not of else f"{doing}: {_counts(phase, figures, of)}"
    return OutlookView(
        phase=phase,
        text=text + _verdicts(state, runs),
        healthy=healthy,
        failed=failed,
        on_probation=probation,
        of=of,
        next_decision_at=_next_decision(snapshot, runs, now),
        soaking=soaking,
    )


def _counts(phase: str, figures: Mapping[str, int], of: int) -> str:
    """Return how many devices are how: first, of all, those that a phase is about, then whatever else there is."""
    first = "soaking" if phase == "soaking" else "healthy"
    about = f"{figures[first]} of {of}" if first == phase else f"{figures[first]} of {of} {first}"
    return ", ".join([about, *(f"{n} {what}" for what, n in figures.items() if n and what != first)])


def _between_stages(cells: Sequence[StageRun], *, owed: int) -> OutlookView:
    """Return what a rollout does in which no stage is open. owed: devices that were sent back and have not confirmed it."""
    if owed:
        return OutlookView("rolling_back", f"Rolling back: {owed} not confirmed yet")
    failed = {run.stratum for run in cells if run.state is StageState.FAILED}
    pending = [run for run in cells if run.state is StageState.PENDING and run.stratum not in failed]
    if cells and not pending:
        return OutlookView("finishing", "Finishing")
    waits = next((run.reason for run in pending if run.reason), "")
    if not any(run.opened_at for run in cells):
        return OutlookView("waiting", f"Waiting to open the first stage: {waits}" if waits else _FIRST)
    return OutlookView("opening", f"Waiting to open the next stage: {waits}" if waits else "Opening the next stage")


def _phase(state: StageState, *, has_begun: bool) -> tuple[str, str]:
    match state:
        case StageState.SOAKING:
            return "soaking", "Soaking"
        case StageState.JUDGING:
            return "judging", "Soak over"
        case _:
            return ("installing", "Installing") if has_begun else ("waiting", _FIRST)


def _verdicts(state: StageState, runs: Sequence[StageRun]) -> str:
    """Return what keeps stages from their verdict, where one thing does: a failure to be confirmed, or what is missing after the soak."""
    if any(run.code == WORD_OPEN for run in runs):
        return "; a failure waits for confirmation"
    reasons = {run.reason for run in runs if run.verdict is not None and run.reason}
    return f"; {reasons.pop()}" if state is StageState.JUDGING and len(reasons) == 1 else ""


def _is_in(snapshot: Snapshot, a: Assignment, runs: Sequence[StageRun]) -> bool:
    """Whether a device is in a stage that is open in its stratum, or in one of the same mode before it."""
    stages = snapshot.spec.stages
    return any(
        a.stratum == run.stratum and a.stage <= run.stage and stages[a.stage].mode is stages[run.stage].mode
        for run in runs
    )


def _next_decision(snapshot: Snapshot, runs: Sequence[StageRun], now: datetime) -> datetime | None:
    """Return when a soak ends next; where none runs, when a stage without a verdict is given up.

    While devices are asked to confirm a failure, that depends on their answers.
    """
    runs = [run for run in runs if run.code != WORD_OPEN]
    soaks = [run.soak_until for run in runs if run.state is StageState.SOAKING and run.soak_until]
    after = snapshot.spec.on_inconclusive.after
    judged = [run.counts_from + after for run in runs if run.state is StageState.JUDGING and run.counts_from]
    return min((at for at in soaks or judged if at > now), default=None)
