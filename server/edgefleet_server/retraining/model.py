"""Values of retraining. States, causes and kinds of launchers are stored and public: never renamed. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol


class TriggerOn(StrEnum):
    """What a trigger looks at."""

    DRIFT = "drift"
    ACCURACY = "accuracy"
    OBJECTIVE = "objective"
    SCHEDULE = "schedule"
    HAND = "hand"


class LauncherKind(StrEnum):
    """What starts a training: a runner that asks for it, or a system that is called."""

    RUNNER = "runner"
    GITHUB = "github"
    GITLAB = "gitlab"
    MLFLOW = "mlflow"
    WEBHOOK = "webhook"


class RunState(StrEnum):
    """How far a retraining is."""

    AWAITING_APPROVAL = "awaiting_approval"
    COLLECTING = "collecting"
    QUEUED = "queued"
    TRAINING = "training"
    CONVERTING = "converting"
    ROLLING_OUT = "rolling_out"
    PROMOTED = "promoted"
    PUBLISHED = "published"
    STOPPED = "stopped"
    FAILED = "failed"
    REJECTED = "rejected"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


OPEN = (
    RunState.AWAITING_APPROVAL, RunState.COLLECTING, RunState.QUEUED, RunState.TRAINING, RunState.CONVERTING, RunState.ROLLING_OUT,
)  # fmt: skip
"""States of a retraining that has not ended."""


class DriftAfter(StrEnum):
    """Whether what caused a retraining is still there after its release was rolled out."""

    WAITING = "waiting"
    GONE = "gone"
    STILL_THERE = "still_there"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class LauncherView:
    """What starts the training. settings: of its kind, without the secret; deadline_s: for how long it may train."""

    kind: LauncherKind
    settings: Mapping[str, str]
    has_secret: bool
    deadline_s: int


@dataclass(frozen=True)
class DataWanted:
    """Which captured records are collected: at most `most`, from at most `devices` devices, for at most `wait_s` seconds.

    reasons: only those captured for one of these, none: for any.
    """

    most: int = 1000
    devices: int = 20
    reasons: Sequence[str] = ()
    wait_s: int = 600


@dataclass(frozen=True)
class TriggerView:
    """A trigger as it is shown. objective: the one that it looks at, "" = any of the model; schedule: a cron line, on the clock of `tz`.

    lasting_s: for how long the cause must have been there; cool_down_s: between two retrainings that it starts by itself; budget: how many
    in `budget_period_s`, also by hand. approval: a second person agrees before anything is collected or trained. rollout: a rollout's spec
    without the release, null: the new release is only published. says: why it starts nothing now, or what it waits for; used: of the
    budget; open_run: the retraining of its model that has not ended, "" = none; next_at: of a schedule.
    """

    name: str
    model: str
    on: TriggerOn
    objective: str
    schedule: str
    tz: str
    lasting_s: int
    cool_down_s: int
    budget: int
    budget_period_s: int
    approval: bool
    launcher: LauncherView
    data: DataWanted
    rollout: Mapping[str, Any] | None
    enabled: bool
    says: str
    used: int
    open_run: str
    next_at: datetime | None
    created_at: datetime
    created_by: str
    changed_at: datetime
    changed_by: str


@dataclass(frozen=True)
class MovedSignal:
    """A signal that moved. said: how far, where, and how much it matters, in words; moved: of how many devices, of: among how many."""

    name: str
    said: str
    moved: int = 0
    of: int = 0


@dataclass(frozen=True)
class RunCause:
    """Why a retraining began. words: in a sentence; alert: the id of the alert that it rests on, null without one.

    since: since when that has fired; signals: what moved, what matters first; devices: those concerned, at most 200; evidence: lines of the
    alert.
    """

    on: TriggerOn
    words: str
    alert: int | None = None
    rule: str = ""
    subject: str = ""
    since: str = ""
    signals: Sequence[MovedSignal] = ()
    devices: Sequence[str] = ()
    evidence: Sequence[str] = ()


@dataclass(frozen=True)
class Collected:
    """What was collected: from how many devices that were asked, how many answered, and how many records came."""

    asked: int = 0
    answered: int = 0
    records: int = 0


@dataclass(frozen=True)
class DataSetView:
    """What was trained on. digest: SHA-256 of its `dataset.json`; counts: records by reason or label; where: an address or a folder."""

    digest: str
    records: int
    labelled: int = 0
    counts: Mapping[str, int] = field(default_factory=dict)
    where: str = ""


@dataclass(frozen=True)
class RunTrouble:
    """Why a retraining failed: a dotted code, the reason, and what to do."""

    code: str
    why: str
    next_step: str = ""


@dataclass(frozen=True)
class DriftAfterView:
    """Whether the cause is gone. words: why that is said; at: since when, null: not known yet."""

    state: DriftAfter
    words: str
    at: datetime | None


@dataclass(frozen=True)
class RetrainingView:
    """A retraining as it is shown. says: what it waits for, or how it ended, in a sentence. parent: the release that is trained further.

    until: when it ends by itself in this state, null: never. holder, lease_until: the runner that trains, and until when that counts;
    attempts: how often a runner took it and did not give it back; given_back: how often one did. release: the new one, rollout: its id, ""
    before. plan: rollout, launcher and data as they were when it began: a later change of the trigger does not reach it. makers: of the
    trigger, and who started it by hand: none of them may approve it.
    """

    id: str
    trigger: str
    model: str
    state: RunState
    says: str
    cause: RunCause
    parent: str
    launcher: LauncherKind
    approval: bool
    data: DataWanted
    collected: Collected
    data_set: DataSetView | None
    rollout_spec: Mapping[str, Any] | None
    holder: str
    lease_until: datetime | None
    attempts: int
    given_back: int
    progress: str
    release: str
    rollout: str
    error: RunTrouble | None
    drift_after: DriftAfterView | None
    created_at: datetime
    created_by: str
    maker: str
    answered_by: str
    answered_at: datetime | None
    state_since: datetime
    until: datetime | None
    began_at: datetime | None
    ended_at: datetime | None


@dataclass(frozen=True)
class LeasedRetraining:
    """A retraining that a runner took. lease: proves that it is the runner's, shown this once; lease_s: how long it counts unrenewed."""

    retraining: RetrainingView
    lease: str
    lease_s: int


@dataclass(frozen=True)
class LaunchOrder:
    """What a launcher is given of a trigger: its kind, settings and opened secret ("" = none), and for how long it may train."""

    trigger: str
    kind: LauncherKind
    settings: Mapping[str, str]
    secret: str = field(repr=False)
    deadline_s: int


class Launcher(Protocol):
    """Starts a training elsewhere. One for each kind but the runner."""

    def check(self, order: LaunchOrder) -> None:
        """Look at the settings of a trigger before it is stored. Raises RetrainingError."""
        ...

    def launch(self, run: RetrainingView, trigger: LaunchOrder) -> str:
        """Start the training, return where it runs; calls block.

        Raises LaunchRefusedError: another try is for nothing; any other EdgefleetError: it is tried again a few times.
        """
        ...
