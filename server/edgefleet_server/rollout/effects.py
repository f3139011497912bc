"""What a plan changes: one value for each transition, offer, revert and note. Pure; `controller.executor` carries them out."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

import msgspec

from edgefleet_protocol.ids import DeviceId
from edgefleet_protocol.messages import AssignmentState
from edgefleet_server.rollout.analysis.model import Decision, Facts
from edgefleet_server.rollout.model import (
    Assignment,
    Bundle,
    Confirmation,
    Lease,
    RampWindow,
    RolloutState,
    StageRun,
    StageState,
    Wait,
)

# ---- what the planner wants done


@dataclass(frozen=True, slots=True)
class RampWindowUpdated:
    """The minute of a stage is this one now."""

    minute: RampWindow


@dataclass(frozen=True, slots=True)
class LeaseTaken:
    """A download may begin."""

    lease: Lease


@dataclass(frozen=True, slots=True)
class LeaseEnded:
    """A device downloads no more."""

    device: DeviceId


@dataclass(frozen=True, slots=True)
class BandwidthBooked:
    """The line is booked up to then."""

    until: datetime


PaceEffect = RampWindowUpdated | LeaseTaken | LeaseEnded | BandwidthBooked


# ---- what the planner wants done


@dataclass(frozen=True, slots=True)
class RolloutTransitioned:
    """The rollout goes to another state."""

    before: RolloutState
    after: RolloutState
    code: str
    reason: str


@dataclass(frozen=True, slots=True)
class StageRunCreated:
    """A stage of a stratum exists now, not opened yet."""

    cell: StageRun


@dataclass(frozen=True, slots=True)
class StageRunTransitioned:
    """A cell goes to another state; `cell` is it afterwards."""

    before: StageState
    cell: StageRun


@dataclass(frozen=True, slots=True)
class StageRunUpdated:
    """A cell keeps its state but something about it is new: its reason, its soak."""

    cell: StageRun


class AssignmentCreated(msgspec.Struct, frozen=True, gc=False):
    """A device belongs to the rollout now, not offered anything yet."""

    assignment: Assignment


class AssignmentTransitioned(msgspec.Struct, frozen=True, gc=False):
    """An assignment goes to another state; `assignment` is it afterwards."""

    before: AssignmentState
    assignment: Assignment


class AssignmentUpdated(msgspec.Struct, frozen=True, gc=False):
    """An assignment keeps its state but something about it is new."""

    assignment: Assignment


class Offer(msgspec.Struct, frozen=True, gc=False):
    """Write the release into the device's document. The gen of the document becomes the assignment's `gen`.

    start_within_s: over how many seconds the devices of the offer begin, 0 = at once (`admission.within_s`).
    """

    device: DeviceId
    start_within_s: int = 0


class Revert(msgspec.Struct, frozen=True, gc=False):
    """Write what the device ran before into its document. With `is_rollback` the document's gen becomes `back_gen`.

    is_candidate: it runs the release as a candidate, which is ended. to: what it gets instead of what it ran before.
    """

    device: DeviceId
    is_rollback: bool
    is_candidate: bool = False
    to: Bundle | None = None


@dataclass(frozen=True, slots=True)
class DecisionMade:
    """A decision was made about a cell, on these facts."""

    facts: Facts
    decision: Decision


@dataclass(frozen=True, slots=True)
class ConfirmationUpdated:
    """A question about failures is new, or something about it is."""

    confirmation: Confirmation


@dataclass(frozen=True, slots=True)
class CheckAsked:
    """A device is to prove again what it runs: the task with this id, about the bundle with this digest."""

    device: DeviceId
    task: str
    sha256: str


Effect = (
    RolloutTransitioned
    | StageRunCreated
    | StageRunTransitioned
    | StageRunUpdated
    | AssignmentCreated
    | AssignmentTransitioned
    | AssignmentUpdated
    | Offer
    | Revert
    | DecisionMade
    | ConfirmationUpdated
    | CheckAsked
    | PaceEffect
)


@dataclass(frozen=True, slots=True)
class Blocked:
    """What a step held up. stratum, stage: where, "" and None: everywhere; count: of devices, or of stage runs in `state`."""

    wait: Wait
    stratum: str = ""
    stage: int | None = None
    count: int = 1
    state: StageState | None = None


@dataclass(frozen=True, slots=True)
class StepReport:
    """What one step of a pass did, and what held the rest of it. step: module and function; did: in words, "" = nothing.

    waits: what holds each device, in the order in which they were asked; filled only by `planner.tick.explain`.
    """

    step: str
    did: str = ""
    blocked: tuple[Blocked, ...] = ()
    waits: Mapping[DeviceId, Wait] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do now, in this order, and when to look again at the latest without news (None: never). report: why, step by step."""

    effects: tuple[Effect, ...]
    next_at: datetime | None
    report: tuple[StepReport, ...] = ()
