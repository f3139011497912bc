"""What people ask of a simulated rollout, by the commands that the server ships with. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime

from edgefleet_server.rollout.commands import steer, undo
from edgefleet_server.rollout.effects import Plan
from edgefleet_server.rollout.model import Snapshot, StageRun, StageState
from edgefleet_server.rollout.planner import stages
from edgefleet_server.rollout.spec.model import Spec
from edgefleet_server.rollout.state_machines import ROLLOUT_WALKS, IllegalTransitionError


def plan_of(verb: str, snapshot: Snapshot, now: datetime) -> Plan:
    """Return what a verb does. Raises IllegalTransitionError where the state does not allow it, KeyError for an unknown one."""
    said = f"{verb} by a person"
    match verb:
        case "pause":
            return steer.plan_pause(snapshot, now, said)
        case "resume":
            return steer.plan_resume(snapshot, now, said)
        case "abort" | "abort_rollback":
            return steer.plan_abort(snapshot, now, said, rollback=verb == "abort_rollback")
        case "promote":
            return steer.plan_promotion(snapshot, now, said, None)
        case "skip":
            pending = [one.stage for one in snapshot.cells if one.state is StageState.PENDING]
            return steer.plan_skip(snapshot, now, said, min(pending, default=len(snapshot.spec.stages) - 1), None)
        case "undo":
            return undo.plan_reopening(snapshot, now, said)
        case "approve" | "deny":
            if snapshot.state not in ROLLOUT_WALKS or not stages.awaiting_approval(snapshot.cells):
                raise IllegalTransitionError("no stage waits for somebody's word")
            if verb == "deny":
                return steer.plan_denial(snapshot, now, said, None)
            return steer.plan_approval(snapshot, now, "a person", said, None)
        case _:
            raise KeyError(verb)


def answers_due(spec: Spec, cells: Iterable[StageRun]) -> Iterator[datetime]:
    """Yield until when each answer that is waited for may come."""
    for cell in stages.awaiting_approval(cells):
        wanted = spec.stages[cell.stage].approval
        if cell.asked_at is not None and wanted is not None:
            yield cell.asked_at + wanted.timeout
