"""Values of the rollout feature. States and verdicts are stored and public: never renamed.

- A rollout brings one release to the devices that a selector matches, stage by stage.
- A stratum is one hardware profile. Each stratum walks through the stages on its own; a cell is one stage of one stratum.
- An assignment is one device in one rollout.
Source: design README §7, fleet.md §5.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final

import msgspec

from edgefleet_protocol.digest import Sha256
from edgefleet_protocol.ids import DeviceId, ProfileName, RolloutId
from edgefleet_protocol.messages import AssignmentState, ErrorClass, Phase
from edgefleet_server.rollout.gating import Answers, GateFact
from edgefleet_server.rollout.pace import NO_PACE_FACTS, PaceEffect, PaceFacts
from edgefleet_server.rollout.quality_model import DeviceQuality, QualityFacts
from edgefleet_server.rollout.shape import NO_CANDIDATE, CandidateReport
from edgefleet_server.rollout.spec_model import (
    DeviceDeadlines,
    Inconclusive,
    InstallGate,
    OnFail,
    Promote,
    Size,
    Spec,
    StageSpec,
)

__all__ = ["DeviceDeadlines", "Inconclusive", "InstallGate", "OnFail", "Promote", "Size", "Spec", "StageSpec"]
"""Of `spec_model`, for those who use both. What is defined here is public, too."""

SMALL_STRATUM: Final = 73
"""Clean devices that the promote e-process needs at its defaults; a stratum with fewer uses the small-fleet rules."""
FULL_CUT: Final = 2**64
"""A cut above every rank: the whole stratum."""


class RolloutState(StrEnum):
    """Where a rollout stands."""

    DRAFT = "draft"
    VALIDATING = "validating"
    AWAITING_APPROVAL = "awaiting_approval"
    RUNNING = "running"
    PAUSED = "paused"
    ROLLING_BACK = "rolling_back"
    ROLLED_BACK = "rolled_back"
    ROLLBACK_INCOMPLETE = "rollback_incomplete"
    FINISHED = "finished"
    REGRESSED = "regressed"
    SUPERSEDED = "superseded"
    CANCELLED = "cancelled"


class StageState(StrEnum):
    """Where a stage stands in one stratum."""

    PENDING = "pending"
    EXPOSING = "exposing"
    SOAKING = "soaking"
    JUDGING = "judging"
    PASSED = "passed"
    FAILED = "failed"
    HELD = "held"
    SKIPPED = "skipped"


class Rule(StrEnum):
    """The promote rule that a stage uses in one stratum."""

    ALL_HEALTHY = "all_healthy"
    EVIDENCE = "evidence"


class Strength(StrEnum):
    """How much a promotion rests on."""

    WEAK = "weak"
    EVIDENCE = "evidence"
    OVERRIDE = "override"


class VerdictKind(StrEnum):
    """What was decided about a stage."""

    ADVANCE = "advance"
    HOLD = "hold"
    PAUSE = "pause"
    ROLL_BACK = "roll_back"


# ---- what is judged


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """Devices of one stratum, over all stages opened so far; accepted failures are in none of them but `accepted`.

    members: below the cut; offered: not taken up yet; exposed = pending + healthy + failed; healthy: past their soak;
    failed: failed, lost, rolled back by themselves or regressed, also when a person had them tried again since;
    unreachable, incompatible: outside of the evidence.
    """

    members: int = 0
    offered: int = 0
    exposed: int = 0
    pending: int = 0
    healthy: int = 0
    failed: int = 0
    unreachable: int = 0
    incompatible: int = 0
    accepted: int = 0


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """All that a decision about one cell rests on. Stored with the decision, so that it can be made again.

    failures: count by error class, `lost` among them (its sum is `counts.failed`). soaking: healthy devices whose soak is
    not over (they are pending). pooled_exposed, pooled_failed: over all strata of the rollout. open_for_s: since the cell
    opened or was last resumed. stage_members: devices of this very stage that are not out of reach (unreachable,
    incompatible); stage_tried: those of them that are exposed; None: not told, the whole stratum is looked at instead.
    beside_metrics: metrics of the spec may fail a stage, if not this one: the error probability is shared with them here, too.
    """

    stage: int
    stratum: str
    population: int
    counts: Counts
    failures: dict[str, int] = msgspec.field(default_factory=dict)
    soaking: int = 0
    pooled_exposed: int = 0
    pooled_failed: int = 0
    stage_members: int | None = None
    stage_tried: int | None = None
    rule: Rule = Rule.ALL_HEALTHY
    max_failure: float = 0.03
    promote_below: float = 0.05
    alpha_abort: float = 0.01
    alpha_promote: float = 0.05
    on_fail: OnFail = OnFail.ROLLBACK
    open_for_s: float = 0.0
    inconclusive_after_s: float = 172_800.0
    inconclusive_do: OnFail = OnFail.PAUSE
    gates: list[GateFact] = msgspec.field(default_factory=list)
    quality: QualityFacts | None = None
    beside_metrics: bool = False


Figures = Mapping[str, float | int | str | None]


@dataclass(frozen=True, slots=True)
class Advance:
    """The stage passed in this stratum. bound: in words, for example "4 of 4 healthy: failure below 53 % at 95 %"."""

    code: str
    reason: str
    figures: Figures
    strength: Strength
    bound: str


@dataclass(frozen=True, slots=True)
class Hold:
    """No verdict yet: what is missing."""

    code: str
    reason: str
    figures: Figures


@dataclass(frozen=True, slots=True)
class Pause:
    """Stop offering and wait for a person."""

    code: str
    reason: str
    figures: Figures


@dataclass(frozen=True, slots=True)
class RollBack:
    """The release is bad here: take it back. pooled: on the evidence of all strata together, so all of them stop."""

    code: str
    reason: str
    figures: Figures
    pooled: bool = False


Decision = Advance | Hold | Pause | RollBack


# ---- what the planner sees


@dataclass(frozen=True, slots=True)
class Bundle:
    """The release as built for one profile."""

    target: str
    sha256: Sha256
    length: int


@dataclass(frozen=True, slots=True)
class Member:
    """A device that the rollout's selector matches now. barred: stages that it may not be in; pinned: why it takes no part."""

    device: DeviceId
    stratum: ProfileName
    barred: frozenset[int] = frozenset()
    pinned: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """What a device last said of the rollout's model. See `messages.ModelState` for the meaning of the fields."""

    reported_gen: int = 0
    phase: Phase | None = None
    active_sha256: str = ""
    previous_sha256: str = ""
    wanted_sha256: str = ""
    attempt: int = 0
    gen: int = 0
    error_class: ErrorClass | None = None
    error_code: str = ""
    reason: str = ""
    refused_gen: int = 0
    refused_code: str = ""
    refused_reason: str = ""
    is_revoked: bool = False
    is_online: bool = False
    last_seen: datetime | None = None
    wanted_by_server: str = ""
    """Digest that the device's present document asks for; "" = none. Another one than ours: somebody deployed over it."""
    candidate: CandidateReport = NO_CANDIDATE


class Assignment(msgspec.Struct, frozen=True, gc=False):
    """One device in one rollout. gen: of the document that offered; 0 before the first offer.

    previous: what the device ran when it was first offered the release; None = it ran nothing of this model.
    back_gen: gen of the document that took the release back; 0 = never taken back. retries: offers after a failure of the moment,
    retry_at: not before then. due_at: since when it may be offered. unanswered_s: how long offers were out that were recalled.
    failed_before: class of a failure after which a person gave it another try; it counts as failed from then on, whatever it does.
    A struct because a copy with changes (`but`) of a dataclass of so many fields takes thirty times as long, and a look makes 100,000.
    """

    device: DeviceId
    stage: int
    stratum: ProfileName
    state: AssignmentState
    attempt: int = 0
    gen: int = 0
    is_joiner: bool = False
    is_accepted: bool = False
    previous: Bundle | None = None
    offered_at: datetime | None = None
    exposed_at: datetime | None = None
    entered_at: datetime | None = None
    switched_at: datetime | None = None
    ended_at: datetime | None = None
    deadline: datetime | None = None
    back_gen: int = 0
    back_at: datetime | None = None
    back_done_at: datetime | None = None
    error_class: str = ""
    reason: str = ""
    retries: int = 0
    retry_at: datetime | None = None
    due_at: datetime | None = None
    unanswered_s: float = 0.0
    failed_before: str = ""

    def but(self, **changes: Any) -> "Assignment":
        """Return a copy with these fields changed."""
        return msgspec.structs.replace(self, **changes)


@dataclass(frozen=True, slots=True)
class Cell:
    """One stage of one stratum. cut: devices whose rank is lower belong to the stage (0 before it opens).

    digest: of the bundle that its devices are offered, "" before it opens: what the brake names when the stratum fails.
    asked_at: since when it waits for an approval; approved_by: who gave it, "" = nobody yet.
    intake: how many devices its stratum was to have in this rollout once those were taken in that it opened for.
    """

    stage: int
    stratum: ProfileName
    state: StageState
    cut: int = 0
    population: int = 0
    digest: str = ""
    opened_at: datetime | None = None
    soak_until: datetime | None = None
    resumed_at: datetime | None = None
    ended_at: datetime | None = None
    verdict: VerdictKind | None = None
    code: str = ""
    reason: str = ""
    strength: Strength | None = None
    bound: str = ""
    asked_at: datetime | None = None
    approved_by: str = ""
    intake: int = 0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that the planner needs to know of one rollout, read in one transaction."""

    id: RolloutId
    state: RolloutState
    spec: Spec
    salt: str
    bundles: Mapping[ProfileName, Bundle]
    members: tuple[Member, ...]
    cells: tuple[Cell, ...]
    assignments: tuple[Assignment, ...]
    reports: Mapping[DeviceId, Report] = field(default_factory=dict)
    running: Mapping[DeviceId, Bundle] = field(default_factory=dict)
    """What devices that have no assignment yet run of this model now: what they would be rolled back to."""
    code: str = ""
    reason: str = ""
    """Why the rollout is in its state."""
    answers: Answers = field(default_factory=dict)
    """What webhook gates last said."""
    missed: timedelta = timedelta()
    """For how long nobody looked although it was time: the server was away, and heard no device either."""
    pace: PaceFacts = NO_PACE_FACTS
    measured: tuple[DeviceQuality, ...] = ()
    """What was measured of devices so far, for the quality gate."""
    behind: tuple[str, ...] = ()
    """Older rollouts that a queued one waits for."""
    way_back: Mapping[ProfileName, Bundle] = field(default_factory=dict)
    """Bundles of the release that `rollback_to` names: what a device goes back to instead of what it ran before."""


# ---- what the planner wants done


@dataclass(frozen=True, slots=True)
class RolloutMoved:
    """The rollout goes to another state."""

    before: RolloutState
    after: RolloutState
    code: str
    reason: str


@dataclass(frozen=True, slots=True)
class CellMade:
    """A stage of a stratum exists now, not opened yet."""

    cell: Cell


@dataclass(frozen=True, slots=True)
class CellMoved:
    """A cell goes to another state; `cell` is it afterwards."""

    before: StageState
    cell: Cell


@dataclass(frozen=True, slots=True)
class CellNoted:
    """A cell keeps its state but something about it is new: its reason, its soak."""

    cell: Cell


class AssignmentMade(msgspec.Struct, frozen=True, gc=False):
    """A device belongs to the rollout now, not offered anything yet."""

    assignment: Assignment


class AssignmentMoved(msgspec.Struct, frozen=True, gc=False):
    """An assignment goes to another state; `assignment` is it afterwards."""

    before: AssignmentState
    assignment: Assignment


class AssignmentNoted(msgspec.Struct, frozen=True, gc=False):
    """An assignment keeps its state but something about it is new."""

    assignment: Assignment


class Offer(msgspec.Struct, frozen=True, gc=False):
    """Write the release into the device's document. The gen of the document becomes the assignment's `gen`.

    start_within_s: over how many seconds the devices of the offer begin, 0 = at once (`spreading`).
    """

    device: DeviceId
    start_within_s: int = 0


class GiveBack(msgspec.Struct, frozen=True, gc=False):
    """Write what the device ran before into its document. With `is_rollback` the document's gen becomes `back_gen`.

    is_beside: it runs the release as a candidate, which is ended. to: what it gets instead of what it ran before.
    """

    device: DeviceId
    is_rollback: bool
    is_beside: bool = False
    to: Bundle | None = None


@dataclass(frozen=True, slots=True)
class Judged:
    """A decision was made about a cell, on these facts."""

    facts: Facts
    decision: Decision


Effect = (
    RolloutMoved
    | CellMade
    | CellMoved
    | CellNoted
    | AssignmentMade
    | AssignmentMoved
    | AssignmentNoted
    | Offer
    | GiveBack
    | Judged
    | PaceEffect
)


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do now, in this order, and when to look again at the latest without news (None: never)."""

    effects: tuple[Effect, ...]
    next_at: datetime | None
