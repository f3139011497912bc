"""The API: models, their aliases and the comparison of two versions. Made by `python -m tests.house.api_structs`."""

from edgefleet_cli.core.structs import Body, Struct, field


class AliasIn(Body, frozen=True, kw_only=True):
    version: str


class Alias(Struct, frozen=True):
    alias: str = ""
    model: str = ""
    ref: str = ""
    set_at: str = ""
    set_by: str = ""
    version: str = ""


class Change(Struct, frozen=True):
    after: float | str | None = None
    before: float | str | None = None
    figure: str = ""
    metric: str = ""
    name: str = ""
    said: str = ""
    tone: str = "plain"
    unit: str = ""


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


class SignalDrift(Struct, frozen=True):
    after: tuple[float, ...] = ()
    before: tuple[float, ...] = ()
    beyond: float = 0.0
    bins: tuple[str, ...] = ()
    devices: int = 0
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
