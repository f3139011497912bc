"""What people see of approvals. The names of the fields are public: never renamed."""

from dataclasses import dataclass
from datetime import datetime

from edgefleet_server.rollout.model import StageRun
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
