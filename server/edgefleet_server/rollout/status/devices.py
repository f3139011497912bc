"""What people see of the devices of a rollout. The names of the fields are public: never renamed.

A page of devices costs what its lines cost.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from edgefleet_protocol.ids import DeviceId, ModelName
from edgefleet_protocol.messages import SPREAD_CODE
from edgefleet_server.fleet.model import DeviceStatus
from edgefleet_server.fleet.reported.model import ModelReport
from edgefleet_server.fleet.reported.reader import ReportedStateReader
from edgefleet_server.rollout.model import Assignment, Wait
from edgefleet_server.rollout.planner import tick
from edgefleet_server.rollout.spec.model import profile_of
from edgefleet_server.rollout.status.model import next_of
from edgefleet_server.rollout.status.summary import RolloutSummary


@dataclass(frozen=True)
class RolloutDevice:
    """One device of a rollout. running: release that it reports; phase: its own word; reason: why it stands where it stands.

    failed_before: class of a failure after which a person had it tried again; it stays evidence whatever `state` is now.
    waits_for, moves, until: why it does not get on now, what would move it, and when that is, where it is known; next, at: as in
    `WaitView`.
    """

    device: str
    profile: str
    stage: str
    stratum: str
    state: str
    phase: str | None
    error_class: str
    reason: str
    attempt: int
    offered_at: datetime | None
    exposed_at: datetime | None
    switched_at: datetime | None
    ended_at: datetime | None
    deadline: datetime | None
    running: str
    online: str
    is_joiner: bool
    is_accepted: bool
    is_back: bool
    retries: int = 0
    failed_before: str = ""
    waits_for: str = ""
    moves: str = ""
    until: datetime | None = None
    next: str = ""
    at: str = ""
    display_name: str = ""


def device_lines(
    reports: ReportedStateReader,
    model: ModelName,
    standing: RolloutSummary,
    names: Sequence[str],
    chosen: Sequence[Assignment],
) -> list[RolloutDevice]:
    """Return what people see of these devices. names: of the stages."""
    waits = tick.explain(standing.snapshot, standing.now, standing.lots, chosen).waits
    ids: list[DeviceId] = [one.device for one in chosen]
    reported, called = reports.reports_of(ids, model), reports.display_names(ids)
    found = []
    for one in chosen:
        report, wait = reported.get(one.device), waits.get(one.device)
        next_step, at = ("", "") if wait is None else next_of(wait.moves)
        parts = report.active_target.split("/") if report is not None else []
        found.append(
            RolloutDevice(
                device=one.device,
                profile=profile_of(one.stratum),
                stage=names[one.stage],
                stratum=one.stratum,
                state=one.state.value,
                phase=None if report is None or report.phase is None else report.phase.value,
                error_class=one.error_class,
                reason=one.reason,
                attempt=one.attempt,
                offered_at=one.offered_at,
                exposed_at=one.exposed_at,
                switched_at=one.switched_at,
                ended_at=one.ended_at,
                deadline=one.deadline,
                running="@".join(parts[:2]) if len(parts) == 3 else "",
                online=DeviceStatus.UNKNOWN.value if report is None else report.status.value,
                is_joiner=one.is_joiner,
                is_accepted=one.is_accepted,
                is_back=one.back_done_at is not None,
                retries=one.retries,
                failed_before=one.failed_before,
                waits_for=_waits_for(wait, report),
                moves="" if wait is None else wait.moves,
                until=None if wait is None else wait.until,
                next=next_step,
                at=at,
                display_name=called.get(one.device, ""),
            )
        )
    return found


def _waits_for(wait: Wait | None, report: ModelReport | None) -> str:
    """Return what a device waits for; one that knows the moment at which it begins says so better than the server can."""
    if wait is None:
        return ""
    return report.reason if report is not None and report.error_code == SPREAD_CODE else wait.reason
