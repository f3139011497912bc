"""A plan in the making: a snapshot as the effects so far have changed it. Pure, and the only thing of a pass that changes.

- Every change of a state goes through a transition table and leaves one effect, so that its event is written once.
- It knows no rule of a rollout: the steps of a pass (`tick`) and the commands of people decide, and write their changes here.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from edgefleet_protocol.ids import DeviceId, ProfileName
from edgefleet_server.rollout.admission import AdmissionControl
from edgefleet_server.rollout.effects import (
    AssignmentCreated,
    AssignmentTransitioned,
    AssignmentUpdated,
    Effect,
    Plan,
    RolloutTransitioned,
    StageRunCreated,
    StageRunTransitioned,
    StageRunUpdated,
    StepReport,
)
from edgefleet_server.rollout.model import Assignment, Member, Snapshot, StageRun, StageState
from edgefleet_server.rollout.state_machines import (
    CELL_DONE,
    CELL_OPEN,
    RolloutEvent,
    StageEvent,
    step_rollout,
    step_stage,
)


@dataclass(frozen=True, slots=True)
class StratumTrack:
    """The stage runs of one stratum in order of stage."""

    stratum: ProfileName
    runs: tuple[StageRun, ...]

    @property
    def current(self) -> StageRun | None:
        """The first stage run that is neither passed nor skipped; None when all are."""
        return next((run for run in self.runs if run.state not in (StageState.PASSED, StageState.SKIPPED)), None)

    @property
    def offering(self) -> StageRun | None:
        """The stage run whose devices are offered the release: the open one, or the last one when a person let it pass early."""
        run = self.current
        if run is None:
            return self.runs[-1] if self.runs[-1].state is StageState.PASSED else None
        return run if run.state in CELL_OPEN else None

    @property
    def has_failed(self) -> bool:
        return any(run.state is StageState.FAILED for run in self.runs)

    @property
    def has_ended(self) -> bool:
        return self.has_failed or all(run.state in CELL_DONE for run in self.runs)


@dataclass(frozen=True, slots=True)
class MemberIndex:
    """What a snapshot says of its members, by device and by stage."""

    strata: Mapping[DeviceId, ProfileName]
    pinned: Mapping[DeviceId, str]
    barred: Mapping[int, frozenset[DeviceId]]


class PlanBuilder:
    """One pass, or one command, in the making."""

    def __init__(self, snapshot: Snapshot, now: datetime) -> None:
        self.snapshot = snapshot
        self.now = now
        self.state = snapshot.state
        self.cause = snapshot.code, snapshot.reason
        """Code and message of why the rollout is in its state."""
        self.assignments = {a.device: a for a in snapshot.assignments}
        self.stage_runs = {(run.stratum, run.stage): run for run in snapshot.cells}
        self.effects: list[Effect] = []
        self.reports: list[StepReport] = []
        self.members = index_of(snapshot.members)
        self.admission = AdmissionControl(snapshot, now)
        self.withdrawn: set[DeviceId] = set()
        """Devices whose offer this plan takes back: see `documents`."""
        self.buckets: dict[ProfileName, dict[DeviceId, int]] = {}
        """By stratum, the bucket of each of its devices as they were when the pass first asked: `intake.buckets_of` fills it."""
        self.failing_early: dict[ProfileName, str] = {}
        """Strata that are offered nothing more in this pass, "" = none of it: `stages.advance` fills it."""
        self.is_cut_short = False
        """Whether the pass left something to do, so that the next one follows at once."""

    def move_assignment(self, before: Assignment, after: Assignment) -> None:
        """Write an assignment that is in another state now."""
        self.assignments[after.device] = after
        self.effects.append(AssignmentTransitioned(before.state, after))

    def update_assignment(self, after: Assignment) -> None:
        """Write an assignment of which something but its state is new."""
        self.assignments[after.device] = after
        self.effects.append(AssignmentUpdated(after))

    def create_assignment(self, fresh: Assignment) -> None:
        """Write the assignment of a device that belongs to the rollout from now on."""
        self.assignments[fresh.device] = fresh
        self.effects.append(AssignmentCreated(fresh))

    def move_stage_run(self, run: StageRun, event: StageEvent) -> StageRun:
        """Write a stage run, with the changes in `run`, as it is after an event. Raises IllegalTransitionError."""
        after = replace(run, state=step_stage(run.state, event))
        self.stage_runs[run.stratum, run.stage] = after
        self.effects.append(StageRunTransitioned(run.state, after))
        return after

    def update_stage_run(self, run: StageRun) -> None:
        """Write a stage run of which something but its state is new."""
        self.stage_runs[run.stratum, run.stage] = run
        self.effects.append(StageRunUpdated(run))

    def create_stage_run(self, run: StageRun) -> None:
        """Write a stage run that is new."""
        self.stage_runs[run.stratum, run.stage] = run
        self.effects.append(StageRunCreated(run))

    def move_rollout(self, event: RolloutEvent, code: str, message: str) -> None:
        """Write the state of the rollout after an event. Raises IllegalTransitionError."""
        before, self.state = self.state, step_rollout(self.state, event)
        self.effects.append(RolloutTransitioned(before, self.state, code, message))

    def emit(self, *effects: Effect) -> None:
        """Write effects that change nothing of what the builder holds."""
        self.effects += effects

    def report(self, report: StepReport | None) -> None:
        """Note what a step did, or what held it; None: nothing."""
        if report is not None:
            self.reports.append(report)

    def tracks(self) -> list[StratumTrack]:
        """Return the stage runs of each stratum, by its name."""
        return tracks_of(self.stage_runs.values())

    def track(self, stratum: ProfileName) -> StratumTrack:
        """Return the stage runs of one stratum."""
        runs = (run for (one, _), run in self.stage_runs.items() if one == stratum)
        return StratumTrack(stratum, tuple(sorted(runs, key=lambda run: run.stage)))

    def build(self, next_at: datetime | None) -> Plan:
        """Return the plan. next_at: when to look again at the latest; None: never."""
        return Plan(tuple(self.effects), next_at, tuple(self.reports))


def tracks_of(runs: Iterable[StageRun]) -> list[StratumTrack]:
    """Return the tracks of these stage runs, by stratum."""
    found: dict[ProfileName, list[StageRun]] = {}
    for run in runs:
        found.setdefault(run.stratum, []).append(run)
    return [
        StratumTrack(stratum, tuple(sorted(found[stratum], key=lambda run: run.stage))) for stratum in sorted(found)
    ]


def index_of(members: Iterable[Member]) -> MemberIndex:
    """Return what is known of members, by device and by stage."""
    strata: dict[DeviceId, ProfileName] = {}
    pinned: dict[DeviceId, str] = {}
    barred: dict[int, set[DeviceId]] = {}
    for member in members:
        strata[member.device] = member.stratum
        if member.pinned:
            pinned[member.device] = member.pinned
        for stage in member.barred:
            barred.setdefault(stage, set()).add(member.device)
    return MemberIndex(strata, pinned, {stage: frozenset(devices) for stage, devices in barred.items()})
