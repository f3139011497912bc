"""The API: experiments and what they showed, triggers of retraining and retrainings. Made by `python -m tests.house.api_structs`."""

from typing import Any

from edgefleet_cli.core.api.rollout import Metric
from edgefleet_cli.core.structs import UNSET, Body, Struct, Unset, field


class Agreement(Struct, frozen=True):
    agreed: int = 0
    agreement: float | None = None
    compared: int = 0
    dropped: int = 0
    failed: int = 0
    judged: int = 0
    offered: int = 0


class AnswerRetrainingIn(Body, frozen=True, kw_only=True):
    reason: str | Unset = UNSET


class Arm(Struct, frozen=True):
    answers: int = 0
    devices: int = 0
    error_rate: float | None = None
    lane: str = ""
    latency_p50_ms: float | None = None
    latency_p95_ms: float | None = None
    nonfinite: int = 0


class CollectIn(Body, frozen=True, kw_only=True):
    devices: int | Unset = UNSET
    most: int | Unset = UNSET
    reasons: tuple[str, ...] | Unset = UNSET
    wait_s: int | Unset = UNSET


class Collected(Struct, frozen=True):
    answered: int = 0
    asked: int = 0
    records: int = 0


class CompleteIn(Body, frozen=True, kw_only=True):
    lease: str | Unset = UNSET
    release: str


class DataSetIn(Body, frozen=True, kw_only=True):
    counts: dict[str, int] | Unset = UNSET
    digest: str
    labelled: int | Unset = UNSET
    records: int
    where: str | Unset = UNSET


class DataSet(Struct, frozen=True):
    counts: dict[str, int] = field(default_factory=dict)
    digest: str = ""
    labelled: int = 0
    records: int = 0
    where: str = ""


class DataWanted(Struct, frozen=True):
    devices: int = 20
    most: int = 1000
    reasons: tuple[str, ...] = ()
    wait_s: int = 600


class DriftAfter(Struct, frozen=True):
    state: str = ""
    words: str = ""


class StratumResult(Struct, frozen=True):
    active: Arm = Arm()
    asked: tuple[str, ...] = ()
    candidate: Arm = Arm()
    devices: int = 0
    metrics: tuple[Metric, ...] = ()
    shadow: Agreement | None = None
    stratum: str = ""


class Trial(Struct, frozen=True):
    began_at: str | None = None
    devices: int = 0
    is_cut: bool = False
    mode: str = ""
    results: tuple[StratumResult, ...] = ()
    stages: tuple[str, ...] = ()


class ExperimentResult(Struct, frozen=True):
    created_at: str = ""
    created_by: str = ""
    id: str = ""
    model: str = ""
    modes: tuple[str, ...] = ()
    name: str = ""
    reason: str = ""
    release: str = ""
    selector: str = ""
    share_pct: int = 0
    state: str = ""
    trials: tuple[Trial, ...] = ()


class Experiment(Struct, frozen=True):
    created_at: str = ""
    created_by: str = ""
    id: str = ""
    model: str = ""
    modes: tuple[str, ...] = ()
    name: str = ""
    reason: str = ""
    release: str = ""
    selector: str = ""
    share_pct: int = 0
    state: str = ""


class FailIn(Body, frozen=True, kw_only=True):
    code: str | Unset = UNSET
    lease: str | Unset = UNSET
    next_step: str | Unset = UNSET
    why: str


class LauncherIn(Body, frozen=True, kw_only=True):
    deadline_s: int | Unset = UNSET
    kind: str | Unset = UNSET
    secret: str | Unset | None = UNSET
    settings: dict[str, str] | Unset = UNSET


class Launcher(Struct, frozen=True):
    deadline_s: int = 0
    kind: str = ""
    settings: dict[str, str] = field(default_factory=dict)


class LeaseIn(Body, frozen=True, kw_only=True):
    holder: str
    model: str


class MovedSignal(Struct, frozen=True):
    name: str = ""
    of: int = 0
    said: str = ""


class RunCause(Struct, frozen=True):
    devices: tuple[str, ...] = ()
    on: str = ""
    signals: tuple[MovedSignal, ...] = ()
    words: str = ""


class RunTrouble(Struct, frozen=True):
    code: str = ""
    next_step: str = ""
    why: str = ""


class Retraining(Struct, frozen=True):
    answered_at: str | None = None
    answered_by: str = ""
    approval: bool = False
    attempts: int = 0
    began_at: str | None = None
    cause: RunCause = RunCause()
    collected: Collected = Collected()
    created_at: str = ""
    created_by: str = ""
    data: DataWanted = DataWanted()
    data_set: DataSet | None = None
    drift_after: DriftAfter | None = None
    error: RunTrouble | None = None
    given_back: int = 0
    holder: str = ""
    id: str = ""
    launcher: str = ""
    model: str = ""
    parent: str = ""
    progress: str = ""
    release: str = ""
    rollout: str = ""
    says: str = ""
    state: str = ""
    trigger: str = ""


class LeasedRetraining(Struct, frozen=True):
    lease: str = ""
    lease_s: int = 0
    retraining: Retraining = Retraining()


class RenewIn(Body, frozen=True, kw_only=True):
    data_set: DataSetIn | Unset | None = UNSET
    gives_back: bool | Unset = UNSET
    lease: str
    progress: str | Unset = UNSET


class TriggerChangeIn(Body, frozen=True, kw_only=True):
    approval: bool | Unset | None = UNSET
    budget: int | Unset | None = UNSET
    budget_period_s: int | Unset | None = UNSET
    cool_down_s: int | Unset | None = UNSET
    data: CollectIn | Unset | None = UNSET
    enabled: bool | Unset | None = UNSET
    lasting_s: int | Unset | None = UNSET
    launcher: LauncherIn | Unset | None = UNSET
    objective: str | Unset | None = UNSET
    on: str | Unset | None = UNSET
    rollout: dict[str, Any] | Unset | None = UNSET
    schedule: str | Unset | None = UNSET
    tz: str | Unset | None = UNSET


class TriggerIn(Body, frozen=True, kw_only=True):
    approval: bool | Unset = UNSET
    budget: int | Unset = UNSET
    budget_period_s: int | Unset = UNSET
    cool_down_s: int | Unset = UNSET
    data: CollectIn | Unset = UNSET
    enabled: bool | Unset = UNSET
    lasting_s: int | Unset = UNSET
    launcher: LauncherIn | Unset = UNSET
    model: str
    name: str
    objective: str | Unset = UNSET
    on: str
    rollout: dict[str, Any] | Unset | None = UNSET
    schedule: str | Unset = UNSET
    tz: str | Unset = UNSET


class Trigger(Struct, frozen=True):
    approval: bool = False
    budget: int = 0
    budget_period_s: int = 0
    changed_at: str = ""
    changed_by: str = ""
    cool_down_s: int = 0
    created_at: str = ""
    created_by: str = ""
    data: DataWanted = DataWanted()
    enabled: bool = False
    lasting_s: int = 0
    launcher: Launcher = Launcher()
    model: str = ""
    name: str = ""
    objective: str = ""
    on: str = ""
    rollout: dict[str, Any] | None = None
    says: str = ""
    schedule: str = ""
    tz: str = ""
    used: int = 0
