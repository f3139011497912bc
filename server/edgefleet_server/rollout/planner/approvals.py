"""Which stages wait for an approval, and what an answer or silence means. Pure.

- An approval belongs to a stage of a stratum: the person who gives it has seen how that stratum fared. It lets the stage open.
- While a stage waits, what the devices of the stage before report still stops the release: its rules are asked in each pass.
- Silence is no approval: after its timeout the rollout does what `on_inconclusive.do` says.
Source: ADR 0034.
"""

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime
from typing import Final

from edgefleet_protocol.ids import RolloutId
from edgefleet_server.access.model import Principal
from edgefleet_server.rollout.effects import Offer, StepReport
from edgefleet_server.rollout.errors import NotApproverError
from edgefleet_server.rollout.model import RolloutState, StageRun, StageState
from edgefleet_server.rollout.planner.builder import PlanBuilder
from edgefleet_server.rollout.spec.model import Approval, Spec, StageSpec
from edgefleet_server.rollout.spec.parts import duration_text
from edgefleet_server.rollout.state_machines import RolloutEvent

AWAITING: Final = "awaiting_approval"
APPROVED: Final = "approved"
DENIED: Final = "denied"
UNANSWERED: Final = "approval_timeout"


def waits(run: StageRun) -> bool:
    """Return whether a stage of a stratum waits for an approval."""
    return run.state is StageState.PENDING and run.asked_at is not None and not run.approved_by


def waiting(runs: Iterable[StageRun], stratum: str | None = None) -> list[StageRun]:
    """Return the stage runs that wait, of one stratum or of all."""
    return [run for run in runs if waits(run) and stratum in (None, run.stratum)]


def asked(run: StageRun, wanted: Approval, now: datetime) -> StageRun:
    """Return the stage run with the question asked."""
    until = (now + wanted.timeout).strftime("%Y-%m-%d %H:%M UTC")
    reason = f"waits for the word of one with the role {wanted.role.value}, until {until}"
    return replace(run, asked_at=now, code=AWAITING, reason=reason)


def approved(run: StageRun, by: str, reason: str) -> StageRun:
    """Return the stage run with the answer yes."""
    return replace(run, approved_by=by, code=APPROVED, reason=reason)


def unasked(run: StageRun, code: str, reason: str) -> StageRun:
    """Return the stage run as one that will be asked about again."""
    return replace(run, asked_at=None, code=code, reason=reason)


def ends_at(run: StageRun, wanted: Approval) -> datetime | None:
    """Return when silence is the answer; None: nobody was asked yet."""
    return None if run.asked_at is None else run.asked_at + wanted.timeout


def is_late(run: StageRun, wanted: Approval, now: datetime) -> bool:
    """Return whether nobody answered in time."""
    end = ends_at(run, wanted)
    return end is not None and now >= end


def refuse_unless_approver(stage: StageSpec, caller: Principal) -> None:
    """Raise NotApproverError unless the caller has the role that the stage's approval asks for."""
    role = (stage.approval or Approval()).role
    if not caller.may(role):
        have = ", ".join(sorted(caller.roles)) or "none"
        raise NotApproverError(
            f"The stage {stage.name} opens at the word of one with the role {role.value}; {caller.name} has: {have}.",
            next_step=f"Ask one who has it; an admin makes a token with `edgectl token create --role {role.value}`.",
        )


def late_reason(spec: Spec, run: StageRun) -> str:
    """Return what is said when nobody answered."""
    stage = spec.stages[run.stage]
    wanted = stage.approval or Approval()
    return (
        f"nobody with the role {wanted.role.value} answered about {stage.name} within {duration_text(wanted.timeout)}"
    )


def how_to_answer(rollout: RolloutId) -> str:
    """Return the commands of an answer."""
    return f"`edgectl rollout approve {rollout}` goes on, `deny` refuses"


def wait_if_idle(plan: PlanBuilder) -> StepReport | None:
    """Say that the rollout waits for an approval when nothing else of it moves."""
    tracks = [track for track in plan.tracks() if not track.has_ended]
    runs = [track.current for track in tracks if track.current is not None]
    asked_for = waiting(runs)
    is_idle = all(run.state is StageState.PENDING for run in runs)
    if not asked_for or not is_idle or plan.state is not RolloutState.RUNNING:
        return None
    if any(isinstance(effect, Offer) for effect in plan.effects):
        return None
    names = {plan.snapshot.spec.stages[run.stage].name: run.reason for run in asked_for}
    message = "; ".join(f"{name} {reason}" for name, reason in names.items())
    plan.move_rollout(RolloutEvent.ASK_APPROVAL, AWAITING, message)
    return StepReport("approvals.wait_if_idle", message)
