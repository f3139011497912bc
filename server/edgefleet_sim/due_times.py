"""When time alone moves a simulated rollout, and how long it may take at most."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Final

from edgefleet_protocol.messages import AssignmentState
from edgefleet_server.rollout.analysis.device_metrics import LATE
from edgefleet_server.rollout.model import Snapshot, Verdict
from edgefleet_server.rollout.spec.model import Spec
from edgefleet_server.rollout.state_machines import CELL_OPEN, soak_end
from edgefleet_sim import leases, operator
from edgefleet_sim.memory_database import SimDatabase

LONGEST: Final = timedelta(days=3)
"""How long a rollout may take over what its spec says, and again each time that a person steps in."""


def dues(rows: SimDatabase, bare: Snapshot, now: datetime) -> Iterator[datetime]:
    """Yield the moments at which something is due. bare: a snapshot without devices."""
    spec = rows.spec
    for one in rows.assignments.values():
        if spec.gates.quality is not None and one.switched_at is not None:
            yield one.switched_at + spec.gates.quality.after + LATE
        if one.deadline is not None:
            yield one.deadline
        # a candidate that rests in a stage without a soak is due when it is heard of again, not by time alone
        if one.state is AssignmentState.HEALTHY and (one.switched_at is not None or spec.stages[one.stage].soak):
            yield soak_end(bare, one, now)
        if one.back_at is not None:
            yield one.back_at + spec.device.ack
    for cell in rows.cells.values():
        if cell.state in CELL_OPEN and cell.opened_at is not None:
            yield (cell.resumed_at or cell.opened_at) + spec.on_inconclusive.after
    yield from operator.answers_due(spec, rows.cells.values())
    for question in rows.confirmations.values():
        if question.verdict is Verdict.OPEN:
            yield question.deadline
            yield from (draw.at + spec.stages[question.stage].soak for draw in question.draws)
    if leases.is_paced(spec):
        yield from leases.dues(rows.snapshot(), now)


def length(spec: Spec) -> timedelta:
    """Return how long the stages of a rollout may take in which nothing goes wrong."""
    limits = spec.device
    way = limits.ack + limits.download + limits.apply + 4 * limits.verify
    return sum((stage.soak + way for stage in spec.stages), timedelta())


def longest(spec: Spec, strata: int, interventions: int) -> timedelta:
    """Return when a rollout must have ended: every stage has a verdict or is unclear in time, each time that it opens."""
    again = 1 + interventions
    asked = sum((stage.approval.timeout for stage in spec.stages if stage.approval), timedelta())
    unclear = spec.on_inconclusive.after * (len(spec.stages) + again)
    return (length(spec) + asked * strata + unclear + LONGEST) * again + spec.device.ack * 2
