"""The API: models, their aliases, the comparison of two versions, and retraining. Made by `python -m tests.house.api_structs`."""

from typing import Any

from edgefleet_cli.core.structs import UNSET, Body, Struct, Unset, field


class AccuracyPoint(Struct, frozen=True):
    accuracy: float | None = None
    at: str = ""
    devices: int = 0
    error: float | None = None
    high: float | None = None
    labelled: int = 0
    low: float | None = None


class AccuracyLine(Struct, frozen=True):
    accuracy: float | None = None
    bias: float | None = None
    devices: int = 0
    error: float | None = None
    high: float | None = None
    labelled: int = 0
    low: float | None = None
    name: str = ""
    numbers: int = 0
    points: tuple[AccuracyPoint, ...] = ()
    right: int = 0
    rmse: float | None = None


class AliasIn(Body, frozen=True, kw_only=True):
    version: str


class Alias(Struct, frozen=True):
    alias: str = ""
    model: str = ""
    ref: str = ""
    set_at: str = ""
    set_by: str = ""
    version: str = ""


class AnswerRetrainingIn(Body, frozen=True, kw_only=True):
    reason: str | Unset = UNSET


class BadRow(Struct, frozen=True):
    error: str = ""
    line: int = 0


class FigurePoint(Struct, frozen=True):
    at: str = ""
    reports: int = 0
    total: float = 0.0


class BusinessFigure(Struct, frozen=True):
    devices: int = 0
    name: str = ""
    points: tuple[FigurePoint, ...] = ()
    reports: int = 0
    total: float = 0.0


class Change(Struct, frozen=True):
    after: float | str | None = None
    basis: str = ""
    before: float | str | None = None
    figure: str = ""
    metric: str = ""
    name: str = ""
    said: str = ""
    tone: str = "plain"
    unit: str = ""


class ClassAccuracy(Struct, frozen=True):
    answered: int = 0
    label: str = ""
    labelled: int = 0
    mistaken_for: str | None = None
    mistakes: int = 0
    right: int = 0


class CollectIn(Body, frozen=True, kw_only=True):
    devices: int | Unset = UNSET
    most: int | Unset = UNSET
    reasons: tuple[str, ...] | Unset = UNSET
    wait_s: int | Unset = UNSET


class Collected(Struct, frozen=True):
    answered: int = 0
    asked: int = 0
    records: int = 0


class ComparedVersion(Struct, frozen=True):
    created_at: str = ""
    created_by: str = ""
    ref: str = ""
    state: str = ""
    version: str = ""


class ProfilePair(Struct, frozen=True):
    better: int = 0
    changes: tuple[Change, ...] = ()
    missing: str = ""
    profile: str = ""
    worse: int = 0


class Comparison(Struct, frozen=True):
    after: ComparedVersion = ComparedVersion()
    before: ComparedVersion = ComparedVersion()
    model: str = ""
    profiles: tuple[ProfilePair, ...] = ()


class CompleteIn(Body, frozen=True, kw_only=True):
    lease: str | Unset = UNSET
    release: str


class ConceptDrift(Struct, frozen=True):
    after: float | None = None
    before: float | None = None
    devices: int = 0
    high: float | None = None
    labelled: int = 0
    low: float | None = None
    said: str = ""
    source: str = ""
    state: str = ""


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
    at: str | None = None
    state: str = ""
    words: str = ""


class DriftCohort(Struct, frozen=True):
    answers: int = 0
    devices: int = 0
    name: str = ""
    psi: float = 0.0
    shares: tuple[float, ...] = ()
    shift: float | None = None
    where: str = ""


class DriftReference(Struct, frozen=True):
    devices: int | None = None
    n: int = 0
    set_at: str | None = None
    set_by: str = ""
    since: str | None = None
    source: str = ""
    until: str | None = None


class DriftVersion(Struct, frozen=True):
    devices: int = 0
    version: str = ""


class DriftWord(Struct, frozen=True):
    device: str = ""
    display_name: str = ""
    kind: str = ""
    model: str = ""
    psi: float = 0.0
    scale: str = ""
    shift: float | None = None
    signal: str = ""
    since: str = ""
    version: str = ""


class DriftingDevice(Struct, frozen=True):
    answers: int = 0
    device: str = ""
    display_name: str = ""
    moved: bool = False
    profile: str = ""
    psi: float = 0.0
    says_so: bool = False
    shift: float | None = None
    site: str = ""


class FailIn(Body, frozen=True, kw_only=True):
    code: str | Unset = UNSET
    lease: str | Unset = UNSET
    next_step: str | Unset = UNSET
    why: str


class FeedbackIn(Body, frozen=True, kw_only=True):
    csv: str | Unset = UNSET
    items: tuple[dict[str, Any], ...] | Unset = UNSET


class PartFailure(Struct, frozen=True):
    device: str = ""
    reason: str = ""
    rows: int = 0


class FeedbackUpload(Struct, frozen=True):
    bad: int = 0
    bad_rows: tuple[BadRow, ...] = ()
    created_at: str = ""
    created_by: str = ""
    failed: int = 0
    failures: tuple[PartFailure, ...] = ()
    id: str = ""
    late: int = 0
    matched: int = 0
    model: str = ""
    parts: int = 0
    pending: int = 0
    refused: int = 0
    repeated: int = 0
    rows: int = 0
    state: str = ""
    unmatched: int = 0


class LatencyCause(Struct, frozen=True):
    after: float | None = None
    against: tuple[str, ...] = ()
    before: float | None = None
    evidence: tuple[str, ...] = ()
    kind: str = ""
    said: str = ""
    score: float = 0.0
    title: str = ""
    unit: str = ""
    verdict: str = ""


class LatencyExplanation(Struct, frozen=True):
    causes: tuple[LatencyCause, ...] = ()
    device: str = ""
    model: str = ""
    next: str = ""
    parts: int = 0
    place: str = ""
    said: str = ""
    since: str = ""
    state: str = ""
    until: str = ""
    where: str = ""


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
    moved: int = 0
    name: str = ""
    of: int = 0
    said: str = ""


class RunCause(Struct, frozen=True):
    alert: int | None = None
    devices: tuple[str, ...] = ()
    evidence: tuple[str, ...] = ()
    on: str = ""
    signals: tuple[MovedSignal, ...] = ()
    since: str = ""
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
    ended_at: str | None = None
    error: RunTrouble | None = None
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
    until: str | None = None


class LeasedRetraining(Struct, frozen=True):
    lease: str = ""
    lease_s: int = 0
    retraining: Retraining = Retraining()


class PublishedAccuracy(Struct, frozen=True):
    metric: str = ""
    n: int = 0
    value: float = 0.0


class ModelAccuracy(Struct, frozen=True):
    by: str = ""
    classes: tuple[ClassAccuracy, ...] = ()
    concept: ConceptDrift = ConceptDrift()
    figures: tuple[BusinessFigure, ...] = ()
    is_cut: bool = False
    late: int = 0
    lines: tuple[AccuracyLine, ...] = ()
    model: str = ""
    published: PublishedAccuracy | None = None
    repeated: int = 0
    since: str = ""
    unmatched: int = 0
    until: str = ""
    version: str = ""


class SignalDrift(Struct, frozen=True):
    after: tuple[float, ...] = ()
    also: tuple[str, ...] = ()
    before: tuple[float, ...] = ()
    beyond: float = 0.0
    bins: tuple[str, ...] = ()
    devices: int = 0
    history: tuple[float | None, ...] = ()
    kind: str = ""
    mean_after: float | None = None
    mean_before: float | None = None
    missing: float = 0.0
    moved: int = 0
    name: str = ""
    named: tuple[DriftingDevice, ...] = ()
    place: str = ""
    psi: float = 0.0
    said: str = ""
    shift: float | None = None
    state: str = ""
    where: str = ""


class ModelDrift(Struct, frozen=True):
    answers: int = 0
    concept: ConceptDrift | None = None
    devices: int = 0
    is_old: bool = False
    judged: int = 0
    kind: str = ""
    model: str = ""
    reference: DriftReference = DriftReference()
    release: str = ""
    said: str = ""
    scale: str = ""
    signals: tuple[SignalDrift, ...] = ()
    since: str | None = None
    state: str = ""
    until: str | None = None
    version: str = ""
    versions: tuple[DriftVersion, ...] = ()
    words: tuple[DriftWord, ...] = ()


class Model(Struct, frozen=True):
    aliases: dict[str, str] = field(default_factory=dict)
    created_at: str = ""
    latest: str | None = None
    latest_state: str | None = None
    name: str = ""
    releases: int = 0


class RenewIn(Body, frozen=True, kw_only=True):
    data_set: DataSetIn | Unset | None = UNSET
    gives_back: bool | Unset = UNSET
    lease: str
    progress: str | Unset = UNSET


class SignalDriftDetail(Struct, frozen=True):
    cohorts: tuple[DriftCohort, ...] = ()
    devices: tuple[DriftingDevice, ...] = ()
    model: str = ""
    reference: DriftReference = DriftReference()
    release: str = ""
    scale: str = ""
    signal: SignalDrift = SignalDrift()
    since: str | None = None
    until: str | None = None
    version: str = ""


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
