"""What the API and the pages say of drift. The dataclasses are bodies of routes: their fields are public and never renamed. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from edgefleet_server.telemetry.ground_truth.views import NOT_KNOWN, ConceptDrift


@dataclass(frozen=True)
class DriftingDevice:
    """One device's signal. psi: effect, less what sampling makes of it; shift: of the mean, in standard deviations, null without one.

    moved: it counts as moved; says_so: its own detector reports drift.
    """

    device: str
    display_name: str
    profile: str
    site: str
    answers: int
    psi: float
    shift: float | None
    moved: bool
    says_so: bool


@dataclass(frozen=True)
class SignalDrift:
    """One signal of a release. Figures are of the devices that moved, of all that have a say where none did.

    kind: numeric, categorical, image (inputs), output, confidence or classes (answers). state: drift, same, small (sure, but too small
    to matter) or few (too few answers). where: nowhere, device, devices, group, profile, site or all; place: which; also: other crowds
    of the very same devices. moved of devices: how many moved of those that have a say. psi: effect; shift: of the mean, in standard
    deviations; mean_before, mean_after: in the signal's unit, null without one; spread: standard deviation as a multiple of before.
    missing, beyond: shares of answers without a value, and outside of what the reference ever saw. bins: what each bin holds;
    before, after: shares of answers, a bin each. log10_p: how likely so much is by chance. history: psi of equal steps up to now,
    null where nothing was reported. matters: how much the release's answers hang on it: most, much, some, little or unknown, "" of answers
    and where the importance of the release is not known; importance: how much worse its metric is without it, null where not measured;
    weighed: move and importance in a sentence.
    """

    name: str
    kind: str
    state: str
    where: str
    place: str
    also: Sequence[str]
    said: str
    moved: int
    devices: int
    psi: float
    shift: float | None
    mean_before: float | None
    mean_after: float | None
    spread: float | None
    missing: float
    missing_before: float
    beyond: float
    log10_p: float
    bins: Sequence[str]
    before: Sequence[float]
    after: Sequence[float]
    history: Sequence[float | None]
    named: Sequence[DriftingDevice]
    matters: str = ""
    importance: float | None = None
    weighed: str = ""


@dataclass(frozen=True)
class DriftReference:
    """What a release is judged by. source: reference, calibration (of the bundle), baseline (a period that a person chose) or none.

    n: samples, or answers of devices; since, until, devices, set_at and set_by are of a baseline only.
    """

    source: str
    n: int
    since: datetime | None = None
    until: datetime | None = None
    devices: int | None = None
    set_at: datetime | None = None
    set_by: str = ""


@dataclass(frozen=True)
class DriftVersion:
    """A version of which devices reported signals lately."""

    version: str
    devices: int


@dataclass(frozen=True)
class DriftWord:
    """What a device's own detector says: this signal has drifted since then, and it is not over."""

    device: str
    display_name: str
    model: str
    version: str
    signal: str
    kind: str
    scale: str
    psi: float
    shift: float | None
    since: datetime


@dataclass(frozen=True)
class ModelDrift:
    """Drift of one version of a model at one scale (5m, 1h or 1d).

    state: drift, same, few (too few answers), no_reference (judged on each device alone) or no_data. kind: none, data (inputs),
    prediction (answers) or both. since, until: the period that was judged, null without data; is_old: nothing came since.
    devices: how many reported; judged: how many of them were looked at; learned: how many count by bins that they learned themselves.
    words: what devices say themselves. concept: whether answers became worse by labels that came for them. importance: how it was measured
    which inputs matter, or why not, "" where nothing drifts; signals that drift come by it, where it was.
    """

    model: str
    version: str
    release: str
    scale: str
    state: str
    kind: str
    said: str
    since: datetime | None
    until: datetime | None
    is_old: bool
    devices: int
    judged: int
    learned: int
    answers: int
    reference: DriftReference
    versions: Sequence[DriftVersion]
    signals: Sequence[SignalDrift]
    words: Sequence[DriftWord]
    concept: ConceptDrift = NOT_KNOWN
    importance: str = ""


@dataclass(frozen=True)
class DriftCohort:
    """A signal in devices that have something in common; where: all, site, profile or group."""

    where: str
    name: str
    devices: int
    answers: int
    psi: float
    shift: float | None
    log10_p: float
    shares: Sequence[float]


@dataclass(frozen=True)
class SignalDriftDetail:
    """One signal in full: by cohort, and the devices with the largest effect."""

    model: str
    version: str
    release: str
    scale: str
    since: datetime | None
    until: datetime | None
    reference: DriftReference
    signal: SignalDrift
    cohorts: Sequence[DriftCohort]
    devices: Sequence[DriftingDevice]


@dataclass(frozen=True)
class SiteDrift:
    """A signal in the devices of one site, "" = those without one. moved: those that count as moved; psi: of the mean of the devices."""

    site: str
    devices: int
    moved: int
    psi: float


@dataclass(frozen=True)
class DriftBaselineView:
    """A period that was chosen as normal for a release. answers: of all devices in it, each with the same weight in the shares."""

    release: str
    since: datetime
    until: datetime
    devices: int
    answers: int
    set_at: datetime
    set_by: str
