"""What rules look at, and what they find. Pure.

`Facts` is one look at everything. A finding names its subject, what was measured, and the limit; `near` is one that does not start an
alert but keeps one going (hysteresis).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum


class Severity(StrEnum):
    """How soon a person should look. Public and stored: never renamed."""

    CRITICAL = "critical"
    WARNING = "warning"
    INFO = "info"


@dataclass(frozen=True, slots=True)
class DeviceFact:
    """One live device. away_s: for how long it is away, None: it is there. habit_s: within what 19 of 20 absences ended."""

    id: str
    name: str
    profile: str
    site: str
    away_s: float | None
    habit_s: float | None
    cert_not_after: datetime
    free_mb: int | None
    suspect_since: datetime | None = None
    suspect_reason: str = ""

    @property
    def shown(self) -> str:
        """Its name and id."""
        return f"{self.name} ({self.id})" if self.name else self.id


@dataclass(frozen=True, slots=True)
class GroupFact:
    """A group's live devices, and those of them that are away."""

    group: str
    devices: int
    away: int


@dataclass(frozen=True, slots=True)
class UpdateFact:
    """A model of a device whose update failed or was rolled back."""

    device: str
    model: str
    state: str
    error_class: str
    reason: str
    since: datetime


@dataclass(frozen=True, slots=True)
class Look:
    """A window of a model on a device, in a few figures."""

    at: datetime
    n: int
    bad: int
    nonfinite: int
    p95_ms: float | None


@dataclass(frozen=True, slots=True)
class ModelFact:
    """A model on a device: its newest windows (oldest first), and what its p95 usually was before them (None: not known yet)."""

    device: str
    model: str
    version: str
    looks: Sequence[Look]
    usual_p95_ms: float | None
    usual_windows: int


@dataclass(frozen=True, slots=True)
class KeyFact:
    """Something signed that ends. resign_at: when the server signs it again by itself, None: a person has to."""

    name: str
    expires: datetime
    resign_at: datetime | None


@dataclass(frozen=True, slots=True)
class DiskFact:
    """A disk of the server."""

    name: str
    total_bytes: int
    free_bytes: int


@dataclass(frozen=True, slots=True)
class TrailFact:
    """The audit trail as the server last read it. broken_n: the first entry that does not follow, 0: all that was read holds."""

    broken_n: int
    whole_at: datetime | None


@dataclass(frozen=True, slots=True)
class TokenFact:
    """A token that nobody revoked. owner: its person or service. used_at: when it was last used, None: never."""

    id: str
    name: str
    owner: str
    created_at: datetime
    expires_at: datetime
    used_at: datetime | None


@dataclass(frozen=True, slots=True)
class BrokenGlassFact:
    """A person who set a protection rule aside, why, and until when."""

    by: str
    reason: str
    until: datetime


@dataclass(frozen=True, slots=True)
class ProtectionFact:
    """A deployment protection rule. ends_at: when it ends, None while nobody (`ending_by`) asked to remove it."""

    name: str
    devices: int
    ends_at: datetime | None
    ending_by: str
    broken: Sequence[BrokenGlassFact] = ()


@dataclass(frozen=True, slots=True)
class DriftWordFact:
    """What a device's own detector says of a model there: the signals that drift."""

    device: str
    model: str
    signals: Sequence[str]


@dataclass(frozen=True, slots=True)
class RunTroubleFact:
    """A model of a device that missed planned runs, or on which one failed, within a day."""

    device: str
    model: str
    is_missed: bool


@dataclass(frozen=True, slots=True)
class DriftedSignal:
    """One signal that drifts by the server's own figures. where: as `telemetry.drift` says it; devices: ids of some that moved."""

    name: str
    where: str
    place: str
    said: str
    moved: int
    of: int
    devices: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class DriftVerdict:
    """How the server judged the drift of a model last. version: the one that it judged; signals: those that drift, what matters first."""

    model: str
    version: str
    judged_at: datetime
    signals: Sequence[DriftedSignal]


@dataclass(frozen=True, slots=True)
class BurnFact:
    """A pair of windows of an objective: the smaller of their burns.

    is_sure: enough events failed to say so; bad, total: of the long window.
    """

    long_s: int
    short_s: int
    factor: float
    is_fast: bool
    burn: float
    is_sure: bool
    bad: int
    total: int


@dataclass(frozen=True, slots=True)
class SloFact:
    """An objective. left: the part of its budget that is left, None without events; says: what it asks."""

    name: str
    title: str
    model: str
    says: str
    left: float | None
    burns: Sequence[BurnFact]


@dataclass(frozen=True, slots=True)
class ModelTotals:
    """A model on all devices: requests of the last hour, and of some days before. n: with those that failed."""

    model: str
    n: int
    failed: int
    p95_ms: float | None
    usual_n: int
    usual_p95_ms: float | None
    usual_days: float


@dataclass(frozen=True, slots=True)
class Facts:
    """All that rules look at, of one moment.

    devices: the live ones that a rule may say something of, or all. live, sites: how many there are in all and at each site, None: those
    in `devices`.
    """

    now: datetime
    devices: Sequence[DeviceFact] = ()
    groups: Sequence[GroupFact] = ()
    updates: Sequence[UpdateFact] = ()
    models: Sequence[ModelFact] = ()
    keys: Sequence[KeyFact] = ()
    ca_ends: Sequence[datetime] = ()
    disks: Sequence[DiskFact] = ()
    trail: TrailFact | None = None
    tokens: Sequence[TokenFact] = ()
    drift_words: Sequence[DriftWordFact] = ()
    drift_verdicts: Sequence[DriftVerdict] = ()
    slos: Sequence[SloFact] = ()
    totals: Sequence[ModelTotals] = ()
    protections: Sequence[ProtectionFact] = ()
    run_troubles: Sequence[RunTroubleFact] = ()
    live: int | None = None
    sites: Mapping[str, int] | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """What a rule found of one subject. near: under the limit, but not far enough to end an alert.

    subject: `device:ID`, `site:NAME`, `group:NAME`, `model:NAME@DEVICE`, `model:NAME`, `slo:NAME`, `key:NAME`, `disk:NAME`,
        `audit`, `token:ID`, `protection:NAME`, `fleet`.
    group: alerts of one rule and group are one message. devices: those that it is about, for selectors. shown: as people call it.
    """

    subject: str
    shown: str
    summary: str
    value: float
    limit: float
    group: str = ""
    near: bool = False
    evidence: Sequence[str] = ()
    devices: Sequence[str] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    link: str = ""


Check = Callable[[Facts, float], Iterable[Finding]]
"""Facts and the threshold in force -> findings, at most one of a subject."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One built-in rule. least, most: of the threshold. source: where the default comes from. next_step: what a person should do.

    for_s: how long it must be so before the alert fires; settle_s: how long it must be over before the alert ends.
    quiets: rules whose alerts about the same devices, or without any about the same subject, say nothing more while one of this rule fires.
    """

    name: str
    title: str
    description: str
    unit: str
    threshold: float
    least: float
    most: float
    source: str
    for_s: int
    settle_s: int
    severity: Severity
    next_step: str
    check: Check
    quiets: Sequence[str] = ()
    quiet_word: str = "is silent"
    """What its subject is said to do where it quiets others."""
    has_devices: bool = True
    """Whether its findings are about devices, so that a selector can narrow them."""
    is_fixed: bool = False
    """Whether nobody can change, switch off or silence it: whoever gets past a safeguard could else do that first."""
