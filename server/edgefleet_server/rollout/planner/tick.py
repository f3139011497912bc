"""What one pass over a rollout does: a snapshot and the time in, a plan out. Pure; proposes and changes nothing itself.

`STEPS` says which steps a pass takes, in which order, by the state in which it finds the rollout. Rules:
1. Reports and deadlines move assignments first, whatever the state (`observe`).
2. A running rollout takes each stratum through its stages (`stages`), and only then offers (`offers`).
3. A stratum that failed is rolled back: what every device ran before is written into its document (`rollback`).
4. The rollout ends when every stratum has ended and, where something was taken back, that is confirmed or given up (`completion`).
A step looks at the state again where one before it may have changed it. Effects are differences, not goals: they may be carried
out once only, which the fence of the controller ensures.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Final

from edgefleet_server.rollout.effects import Plan, StepReport
from edgefleet_server.rollout.model import Assignment, Lot, RolloutState, Snapshot
from edgefleet_server.rollout.planner import (
    blockers,
    completion,
    confirmations,
    intake,
    observe,
    offers,
    recall,
    stages,
    stops,
)
from edgefleet_server.rollout.planner.builder import PlanBuilder
from edgefleet_server.rollout.planner.completion import next_late_pass, reopen_if_bad, revert, update_reasons
from edgefleet_server.rollout.planner.recall import follow_up
from edgefleet_server.rollout.planner.stages import wait_if_idle
from edgefleet_server.rollout.state_machines import ROLLOUT_ACTIVE

Step = Callable[[PlanBuilder], StepReport | None]

_WALK: Final[tuple[Step, ...]] = (
    observe.reports,
    recall.extend_due_times,
    follow_up,
    offers.count_failures,
    intake.exclude_pinned,
    stages.create,
    intake.exclude_unfit,
    recall.offers,
    confirmations.ask,
    stages.advance,
    stops.take_back,
    offers.make,
    offers.make_to_absent,
    wait_if_idle,
    stops.pause,
    recall.withdraw_while_paused,
    revert,
    completion.finish,
    offers.end_leases,
    offers.add_jitter,
    blockers.report,
)
_OVER: Final[tuple[Step, ...]] = (observe.reports, confirmations.close, offers.end_leases, blockers.report)

STEPS: Final[Mapping[RolloutState, tuple[Step, ...]]] = {
    RolloutState.DRAFT: _OVER,
    RolloutState.VALIDATING: (observe.reports, completion.leave_queue, blockers.report),
    RolloutState.AWAITING_APPROVAL: _WALK,
    RolloutState.RUNNING: _WALK,
    RolloutState.PAUSED: (
        observe.reports,
        confirmations.ask,
        stops.take_back,
        recall.withdraw_while_paused,
        revert,
        offers.end_leases,
        blockers.report,
    ),
    RolloutState.ROLLING_BACK: (
        observe.reports,
        confirmations.close,
        revert,
        completion.finish,
        offers.end_leases,
        blockers.report,
    ),
    RolloutState.ROLLED_BACK: _OVER,
    RolloutState.ROLLBACK_INCOMPLETE: _OVER,
    RolloutState.FINISHED: (
        observe.reports,
        confirmations.ask,
        reopen_if_bad,
        revert,
        completion.finish,
        offers.end_leases,
    ),
    RolloutState.REGRESSED: (observe.reports, confirmations.ask, update_reasons, offers.end_leases, blockers.report),
    RolloutState.SUPERSEDED: _OVER,
    RolloutState.CANCELLED: _OVER,
}
"""Total over RolloutState."""


def plan_tick(snapshot: Snapshot, now: datetime) -> Plan:
    """Return what is to be done about a rollout now."""
    plan = PlanBuilder(snapshot, now)
    for step in STEPS[snapshot.state]:
        plan.report(step(plan))
    next_at = next_late_pass(plan) or completion.next_pass(plan)
    if next_at is None and offers.has_leases(plan):
        next_at = now + completion.LOOK_AGAIN
    return plan.build(next_at)


def explain(snapshot: Snapshot, now: datetime, lots: Sequence[Lot], shown: Iterable[Assignment] = ()) -> StepReport:
    """Return what holds a rollout that is stored so, its stages and its devices: asked as in a pass, and nothing is carried out.

    The snapshot needs neither members nor assignments. lots: all of its devices, counted; the one that stands for a lot is asked.
    shown: others that are asked besides.
    """
    asked = {a.device: a for a in (*(a for a, _ in lots), *shown)}
    plan = PlanBuilder(replace(snapshot, assignments=tuple(asked.values())), now)
    waits = (
        offers.explain(plan, lots) | blockers.of_devices_under_way(plan, lots)
        if snapshot.state in ROLLOUT_ACTIVE
        else {}
    )
    return StepReport("tick.explain", "", (*blockers.of_rollout(plan, lots), *blockers.of_stages(plan)), waits)
