"""What people ask of a simulated rollout, by the commands that the server ships with. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime

from edgefleet_server.rollout import approving, control, undoing
from edgefleet_server.rollout.machines import ROLLOUT_WALKS, IllegalTransitionError
from edgefleet_server.rollout.model import Cell, Plan, Snapshot, Spec, StageState


def plan_of(verb: str, snapshot: Snapshot, now: datetime) -> Plan:
    """Return what a verb does. Raises IllegalTransitionError where the state does not allow it, KeyError for an unknown one."""
    said = f"{verb} by a person"
    match verb:
        case "pause":
            return control.plan_pause(snapshot, now, said)
        case "resume":
            return control.plan_resume(snapshot, now, said)
        case "abort" | "abort_rollback":
            return control.plan_abort(snapshot, now, said, rollback=verb == "abort_rollback")
        case "promote":
            return control.plan_promotion(snapshot, now, said, None)
        case "skip":
            pending = [one.stage for one in snapshot.cells if one.state is StageState.PENDING]
            return control.plan_skip(snapshot, now, said, min(pending, default=len(snapshot.spec.stages) - 1), None)
        case "undo":
            return undoing.plan_reopening(snapshot, now, said)
        case "approve" | "deny":
            if snapshot.state not in ROLLOUT_WALKS or not approving.waiting(snapshot.cells):
                raise IllegalTransitionError("no stage waits for somebody's word")
            if verb == "deny":
                return control.plan_denial(snapshot, now, said, None)
            return control.plan_approval(snapshot, now, "a person", said, None)
        case _:
            raise KeyError(verb)


def answers_due(spec: Spec, cells: Iterable[Cell]) -> Iterator[datetime]:
    """Yield until when each answer that is waited for may come."""
    for cell in approving.waiting(cells):
        wanted = spec.stages[cell.stage].shape.approval
        if cell.asked_at is not None and wanted is not None:
            yield cell.asked_at + wanted.timeout
