"""Who waits for an approval, and what an answer or silence means. Pure.

- An approval belongs to a stage of a stratum: who gives it has seen how that stratum fared. It lets the stage open.
- While a stage waits, what its devices of before say still stops the release: the rules against it are asked at each look.
- Silence is no approval: after its timeout the rollout does what `on_inconclusive.do` says.
Source: design README §5, ADR 0034.
"""

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime
from typing import Final

from edgefleet_server.access.model import Principal
from edgefleet_server.rollout.errors import NotApproverError
from edgefleet_server.rollout.model import StageRun, StageState
from edgefleet_server.rollout.spec.model import Approval, Spec, StageSpec, duration_text

AWAITING: Final = "awaiting_approval"
APPROVED: Final = "approved"
DENIED: Final = "denied"
UNANSWERED: Final = "approval_timeout"


def waits(cell: StageRun) -> bool:
    """Return whether a stage of a stratum waits for somebody's word."""
    return cell.state is StageState.PENDING and cell.asked_at is not None and not cell.approved_by


def waiting(cells: Iterable[StageRun], stratum: str | None = None) -> list[StageRun]:
    """Return the cells that wait, of one stratum or of all."""
    return [cell for cell in cells if waits(cell) and stratum in (None, cell.stratum)]


def asked(cell: StageRun, wanted: Approval, now: datetime) -> StageRun:
    """Return the cell with the question asked."""
    until = (now + wanted.timeout).strftime("%Y-%m-%d %H:%M UTC")
    reason = f"waits for the word of one with the role {wanted.role.value}, until {until}"
    return replace(cell, asked_at=now, code=AWAITING, reason=reason)


def approved(cell: StageRun, by: str, reason: str) -> StageRun:
    """Return the cell with the answer yes."""
    return replace(cell, approved_by=by, code=APPROVED, reason=reason)


def unasked(cell: StageRun, code: str, reason: str) -> StageRun:
    """Return the cell as one that will be asked about anew."""
    return replace(cell, asked_at=None, code=code, reason=reason)


def is_late(cell: StageRun, wanted: Approval, now: datetime) -> bool:
    """Return whether nobody answered in time."""
    return cell.asked_at is not None and now >= cell.asked_at + wanted.timeout


def refuse_unless_approver(stage: StageSpec, caller: Principal) -> None:
    """Raise NotApproverError unless the caller has the role that the stage's approval asks for."""
    role = (stage.shape.approval or Approval()).role
    if not caller.may(role):
        have = ", ".join(sorted(caller.roles)) or "none"
        raise NotApproverError(
            f"The stage {stage.name} opens at the word of one with the role {role.value}; {caller.name} has: {have}.",
            next_step=f"Ask one who has it; an admin makes a token with `edgectl token create --role {role.value}`.",
        )


def late_reason(spec: Spec, cell: StageRun) -> str:
    """Return what is said when nobody answered."""
    stage = spec.stages[cell.stage]
    wanted = stage.shape.approval or Approval()
    return (
        f"nobody with the role {wanted.role.value} answered about {stage.name} within {duration_text(wanted.timeout)}"
    )
