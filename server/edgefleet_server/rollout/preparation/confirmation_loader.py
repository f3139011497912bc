"""Reads what the planner needs to know of questions whether failures are confirmed, in the caller's transaction."""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from sqlmodel import Session

from edgefleet_protocol.ids import DeviceId
from edgefleet_protocol.messages import AssignmentState
from edgefleet_server.fleet.desired.model import TaskView
from edgefleet_server.rollout.analysis.confirmation import ALIVE
from edgefleet_server.rollout.analysis.plain_rules import MAX_LOST
from edgefleet_server.rollout.model import Assignment, CheckEnd, Confirmation, Snapshot
from edgefleet_server.rollout.ports import RolloutFleet
from edgefleet_server.rollout.store import confirmation_rows
from edgefleet_terms.reserved_labels import SITE_LABEL

SEED_BYTES: Final = 16


@dataclass(frozen=True, slots=True)
class Asked:
    """Questions of a rollout; how checks of drawn devices ended, by task; sites of lost devices; fresh randomness."""

    confirmations: tuple[Confirmation, ...] = ()
    checks: Mapping[str, CheckEnd] = field(default_factory=dict)
    sites: Mapping[DeviceId, str] = field(default_factory=dict)
    seed: str = ""


def load(session: Session, fleet: RolloutFleet, rollout_id: str, assignments: Sequence[Assignment]) -> Asked:
    """Return what is known of a rollout's questions now."""
    asked = confirmation_rows.of_rollout(session, rollout_id)
    tasks = [draw.task for one in asked if one.verdict in ALIVE for draw in one.draws if draw.task and not draw.answer]
    ends = fleet.tasks.answers(tasks) if tasks else {}
    return Asked(
        confirmations=asked,
        checks={task: _end(ends.get(task)) for task in tasks},
        sites=_sites(fleet, assignments),
        seed=secrets.token_hex(SEED_BYTES),
    )


def _end(view: TaskView | None) -> CheckEnd:
    """Return how a check is. Without a row the device could not be asked: it was taken out of the fleet, or has too many tasks."""
    return CheckEnd(state="cancelled") if view is None else CheckEnd(state=view.state.value, code=view.code)


def is_any_alive(snapshot: Snapshot) -> bool:
    """Return whether a question may still be answered: what devices and the server find is written without the rollout's fence."""
    return any(one.verdict in ALIVE for one in snapshot.confirmations)


def _sites(fleet: RolloutFleet, assignments: Sequence[Assignment]) -> dict[DeviceId, str]:
    lost = [a.device for a in assignments if a.state is AssignmentState.LOST]
    if len(lost) <= MAX_LOST:
        return {}
    return {device: labels.get(SITE_LABEL, "") for device, labels in fleet.devices.labels_of(lost).items()}
