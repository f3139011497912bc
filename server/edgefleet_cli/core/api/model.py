"""The API: models, their aliases and the comparison of two versions. Made by `python -m tests.house.api_structs`."""

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
    importance: float | None = None
    kind: str = ""
    matters: str = ""
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
    weighed: str = ""
    where: str = ""


class ModelDrift(Struct, frozen=True):
    answers: int = 0
    concept: ConceptDrift | None = None
    devices: int = 0
    importance: str = ""
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
