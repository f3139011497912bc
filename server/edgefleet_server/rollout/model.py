"""Values of the rollout feature. States and verdicts are stored and public: never renamed.

- A rollout brings one release to the devices that a selector matches, stage by stage.
- A stratum is one hardware profile. Each stratum walks through the stages on its own; a stage run is one stage of one
  stratum.
- An assignment is one device in one rollout.
- A snapshot is all of one rollout that a reconcile pass may look at: stage runs, assignments, members, reports and rates.
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
from edgefleet_server.rollout.spec.budget_gate import BudgetLeft
from edgefleet_server.rollout.spec.model import (
    DeviceTerms,
    Inconclusive,
    InstallGate,
    Metric,
    OnFail,
    Promote,
    Size,
    Spec,
    StageSpec,
)
from edgefleet_terms.rollout_states import RolloutState


@dataclass(frozen=True, slots=True)
class CandidateReport:
    """What a device reports of its candidate, and which digest its document asks for there ("" = none).

    state, code, reason: as in `messages.CandidateState`. set_by: as in `Report`.
    """

    sha256: str = ""
    state: str = ""
    code: str = ""
    reason: str = ""
    wanted_by_server: str = ""
    set_by: str = ""


NO_CANDIDATE: Final = CandidateReport()


# ---- what was measured


@dataclass(frozen=True, slots=True)
class Span:
    """One metric of a device and of its control device, before and after the switch; None: not known."""

    before: float | None = None
    after: float | None = None
    control_before: float | None = None
    control_after: float | None = None


@dataclass(frozen=True, slots=True)
class DeviceQuality:
    """What was measured of one device: taken once, then never changed. control: "" = there was no device left to compare with.

    drift, control_drift: PSI of the answered classes before and after where the change is beyond chance, 0 where it is not,
    None where it is unknown. is_serving: it serves the release; else the release is a shadow there.
    """

    device: DeviceId
    stratum: ProfileName
    stage: int
    control: str
    began_at: datetime
    taken_at: datetime
    spans: Mapping[Metric, Span] = field(default_factory=dict)
    drift: float | None = None
    control_drift: float | None = None
    is_serving: bool = True


OFFLINE: Final = "offline"
"""The error class of a device that stayed away, where the spec counts these as failed. The server's word, no device's."""

WAITING: Final = frozenset({AssignmentState.ELIGIBLE, AssignmentState.OFFERED})
"""Devices that a pace may hold: those whose try has not begun."""


# ---- the running rollout's


@dataclass(frozen=True, slots=True)
class RampWindow:
    """The running minute of one stage. per_min: its rate; offered and failed: devices, in this minute so far."""

    stage: int
    began_at: datetime
    per_min: int
    offered: int = 0
    failed: int = 0


@dataclass(frozen=True, slots=True)
class Lease:
    """One download that may be under way: from its offer until the device is known not to download any more."""

    device: DeviceId
    rollout: RolloutId
    site: str
    length: int
    taken_at: datetime


@dataclass(frozen=True, slots=True)
class Whereabouts:
    """Labels of a device that its pace depends on; "" = it has none."""

    site: str = ""
    tz: str = ""


@dataclass(frozen=True, slots=True)
class PaceFacts:
    """What the planner knows of the pace. leases: this rollout's; total, by_site: leases of all rollouts, these included.

    line_until: up to then the line is booked by bundles that were begun (bandwidth); None: it is free.
    """

    minutes: tuple[RampWindow, ...] = ()
    leases: tuple[Lease, ...] = ()
    total: int = 0
    by_site: Mapping[str, int] = field(default_factory=dict)
    line_until: datetime | None = None
    where: Mapping[DeviceId, Whereabouts] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Wait:
    """Why a device is not offered the release now, and what would move it. until: when that is, where it is known."""

    code: str
    reason: str
    moves: str
    until: datetime | None = None


NO_PACE_FACTS: Final = PaceFacts()

LOST: Final = "lost"  # the key of devices that fell silent, in `Facts.failures`

GUARD_CLASSES: Final = (ErrorClass.SIGNATURE, ErrorClass.GOLDEN)
"""One of these is enough at any size: the bytes are not what was signed, or compute something else than was proven."""

SMALL_CLASSES: Final = (ErrorClass.CRASH, ErrorClass.LOAD, ErrorClass.NONFINITE)
"""One of these, too, is enough in a small stratum: it lies in the release, not in the device's day."""


class Answered(msgspec.Struct, frozen=True, kw_only=True):
    """What a gate last said. status None: no HTTP answer came; error: why, body: the beginning of what it wrote. at: unix seconds."""

    at: float
    status: int | None = None
    error: str = ""
    body: str = ""


Answers = Mapping[tuple[int, str], Mapping[int, Answered]]
"""By stage and stratum, by the gate's place: what was last answered."""


# ---- words that others are asked about (ADR 0087)


class How(StrEnum):
    """How a failure is confirmed. Stored: never renamed."""

    FETCH = "fetch"  # the server verifies the bundle again, and so do drawn devices
    VECTORS = "vectors"  # the server runs the golden vectors again, and so do drawn devices
    SOAK = "soak"  # drawn devices run the release for the soak of their stage


class Verdict(StrEnum):
    """What became of the question whether a failure is confirmed. Stored: never renamed."""

    OPEN = "open"
    CONFIRMED = "confirmed"
    """Enough of the drawn devices failed."""
    PROVED = "proved"
    """The server's own check of the bundle failed."""
    REFUTED = "refuted"
    """The server's check passed, and so did the drawn devices: the report was not true of the release."""
    UNCONFIRMED = "unconfirmed"
    """The drawn devices are healthy, which does not show that the report was false."""
    TIMED_OUT = "timed_out"
    """Too few answers in time, or nobody to ask."""
    OVER = "over"
    """Nobody waits for it any more: its stratum failed for another reason, or a person let it pass."""


class Answer(StrEnum):
    """What a drawn device showed. Stored: never renamed."""

    NONE = ""
    FAILED = "failed"
    HEALTHY = "healthy"
    GONE = "gone"
    """It shows nothing: it left, is away, or cannot be asked."""


class Draw(msgspec.Struct, frozen=True, kw_only=True):
    """A device that the server drew, and when. is_new: it had not been offered the release. task: the check that it was asked for."""

    device: DeviceId
    at: datetime
    is_new: bool = False
    task: str = ""
    answer: Answer = Answer.NONE


class Proof(msgspec.Struct, frozen=True, kw_only=True):
    """What the server's own check of a bundle found. is_ok None: it could not be made; what: in words."""

    is_ok: bool | None
    what: str


class Confirmation(msgspec.Struct, frozen=True, kw_only=True):
    """The question in one stratum whether failures are confirmed that a plain rule would act on.

    number: counts those of a stratum. code, error_class: the plain rule, and what was reported. sha256: of the bundle. words: whose
    failures it is about, the first one first. seed: secret randomness of the draw, 32 hex digits. most: how many may be drawn.
    """

    number: int
    stratum: ProfileName
    stage: int
    how: How
    code: str
    error_class: str
    sha256: str
    words: list[DeviceId]
    seed: str
    most: int
    opened_at: datetime
    deadline: datetime
    draws: list[Draw] = msgspec.field(default_factory=list)
    proof: Proof | None = None
    verdict: Verdict = Verdict.OPEN
    closed_at: datetime | None = None

    @property
    def needs_proof(self) -> bool:
        """Whether the server checks the bundle itself."""
        return self.how is not How.SOAK

    def count(self, answer: Answer) -> int:
        """Return how many of the drawn devices answered so."""
        return sum(draw.answer is answer for draw in self.draws)


class CheckEnd(msgspec.Struct, frozen=True, kw_only=True):
    """How a check ended that a drawn device was asked for; state: of the task; code: of its failure."""

    state: str
    code: str = ""


__all__ = [
    "DeviceTerms",
    "Inconclusive",
    "InstallGate",
    "OnFail",
    "Promote",
    "RolloutState",
    "Size",
    "Spec",
    "StageSpec",
]
"""Of `spec.model` and of the protocol, for those who use both. What is defined here is public, too."""

FULL_CUT: Final = 2**64
"""A cut above every rank: the whole stratum."""


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


# ---- what the planner sees


@dataclass(frozen=True, slots=True)
class Bundle:
    """The release as built for one profile. is_sealed: only devices that have a key for sealed models can run it."""

    target: str
    sha256: Sha256
    length: int
    is_sealed: bool = False


@dataclass(frozen=True, slots=True)
class Member:
    """A device that the rollout's selector matches now. barred: stages that it may not be in; pinned: why it takes no part.

    is_suspect: its words are not trusted, so it may be in the last stage only, with others before it.
    """

    device: DeviceId
    stratum: ProfileName
    barred: frozenset[int] = frozenset()
    pinned: str = ""
    is_suspect: bool = False


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
    is_suspect: bool = False
    is_online: bool = False
    last_seen: datetime | None = None
    wanted_by_server: str = ""
    """Digest that the device's present document asks for; "" = none. Another one than ours: somebody deployed over it."""
    set_by: str = ""
    """Id of the rollout that wrote this into the document; "" = none did: a deployment, or a rollout that took its release back."""
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


def has_written(rollout: str, a: Assignment, digest: str, word: Report | CandidateReport) -> bool:
    """Return whether this rollout wrote the release (`digest`) into the device's present document.

    The digest alone does not tell: a deployment or another rollout may have set the same release since. An undo adopts devices
    without an offer (attempt 0), no matter who wrote their documents.
    """
    return word.wanted_by_server == digest and (word.set_by == rollout or a.attempt == 0)


Lot = tuple[Assignment, int]
"""Devices that stand alike: one of them, and how many they are."""


@dataclass(frozen=True, slots=True)
class StageRun:
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

    @property
    def counts_from(self) -> datetime | None:
        """From when the time counts that the stage may go without a verdict; None: it is not open yet."""
        return self.resumed_at or self.opened_at


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that the planner needs to know of one rollout, read in one transaction."""

    id: RolloutId
    state: RolloutState
    spec: Spec
    salt: str
    bundles: Mapping[ProfileName, Bundle]
    members: tuple[Member, ...]
    cells: tuple[StageRun, ...]
    assignments: tuple[Assignment, ...]
    reports: Mapping[DeviceId, Report] = field(default_factory=dict)
    code: str = ""
    reason: str = ""
    """Why the rollout is in its state."""
    answers: Answers = field(default_factory=dict)
    """What webhook gates last said."""
    missed: timedelta = timedelta()
    """For how long nobody looked although it was time: the server was away, and heard no device either."""
    pace: PaceFacts = NO_PACE_FACTS
    measured: tuple[DeviceQuality, ...] = ()  # what was measured of devices so far, for the quality gate
    behind: tuple[str, ...] = ()
    """Older rollouts that a queued one waits for."""
    rollback_bundles: Mapping[ProfileName, Bundle] = field(default_factory=dict)
    """Bundles of the release that `rollback_to` names: what a device goes back to instead of what it ran before."""
    withdrawn: frozenset[str] = frozenset()
    """Digests of bundles of the model's withdrawn releases: no device goes back to them."""
    confirmations: tuple[Confirmation, ...] = ()
    """What others were asked about, in order of stratum and number."""
    checks: Mapping[str, CheckEnd] = field(default_factory=dict)
    """By task, how checks of drawn devices ended."""
    suspects: frozenset[DeviceId] = frozenset()
    """Devices of which a failure was refuted: what they report does not act alone."""
    sites: Mapping[DeviceId, str] = field(default_factory=dict)
    """Sites of lost devices, where more are lost than may be."""
    budget: BudgetLeft | None = None  # of the objective that the budget gate names
    seed: str = ""  # fresh randomness of this look, 32 hex digits: no device can foresee whom the server draws
