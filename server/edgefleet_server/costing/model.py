"""Values of costs: what was counted, what it is priced at, and the report. Pure.

Bytes are of messages as devices and server hand them over; a GB is 10^9 bytes, a month 30 days. Figures that nobody measured are None.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Final

GB: Final = 1_000_000_000
MONTH_S: Final = 30 * 86_400
JOULES_PER_KWH: Final = 3_600_000
HOUR_S: Final = 3_600


class Kind(StrEnum):
    """What bytes are of."""

    BUNDLE = "bundle"
    TELEMETRY = "telemetry"
    PREDICTIONS = "predictions"
    CAPTURES = "captures"


class CostBy(StrEnum):
    """By what lines are told apart."""

    MODEL = "model"
    GROUP = "group"


@dataclass(frozen=True, slots=True)
class GroupPrice:
    """What a GB costs for devices of a group; None: as for all others."""

    group: str
    down_gb: float | None = None
    up_gb: float | None = None


@dataclass(frozen=True, slots=True)
class Prices:
    """What a unit of each costs; None: no price is known, and no money is claimed for it.

    groups: of a device in several of them, the first one that has a price counts.
    """

    currency: str
    down_gb: float | None = None
    up_gb: float | None = None
    device_hour: float | None = None
    kwh: float | None = None
    conversion_hour: float | None = None
    stored_gb_month: float | None = None
    groups: tuple[GroupPrice, ...] = ()


@dataclass(frozen=True, slots=True)
class Traffic:
    """Bytes of one kind in a span. groups: those that a device was in, sorted. bundle: sha256 of what went down, else "".

    n: messages, of telemetry windows.
    """

    model: str
    kind: Kind
    bundle: str
    groups: tuple[str, ...]
    bytes: int
    n: int


@dataclass(frozen=True, slots=True)
class Running:
    """What windows of the active lane counted of a bundle. group: None where all devices are counted together, "" for those in none."""

    model: str
    bundle: str
    group: str | None
    seconds: int
    answers: int
    windows: int


@dataclass(frozen=True, slots=True)
class Stored:
    """Bytes that are kept of a model now."""

    bundles: int = 0
    sources: int = 0
    predictions: int = 0
    captures: int = 0

    @property
    def total(self) -> int:
        """Return all of it."""
        return self.bundles + self.sources + self.predictions + self.captures


@dataclass(frozen=True, slots=True)
class Blob:
    """A stored blob that a model names. is_source: of what was published; else of what was made of it."""

    sha256: str
    model: str
    bytes: int
    is_source: bool


@dataclass(frozen=True, slots=True)
class Devices:
    """How many devices run a model now, and how many of them a bundle whose energy was measured."""

    running: int = 0
    measured: int = 0


@dataclass(frozen=True, slots=True)
class Candidate:
    """One candidate of a conversion. drop: how much worse than the source, None where it is not known."""

    id: str
    bytes: int
    drop: float | None


@dataclass(frozen=True, slots=True)
class Choice:
    """What a conversion chose for a bundle. others: further candidates that kept the metric."""

    release: str
    profile: str
    taken: Candidate
    others: tuple[Candidate, ...] = ()


@dataclass(frozen=True, slots=True)
class CostFacts:
    """All that was counted of a span. joules: of an answer, by bundle, as `edgectl device measure` found it.

    running: of all devices together; running_in: the same by group. choices: by bundle. seconds: how long the span is.
    """

    seconds: float
    traffic: tuple[Traffic, ...] = ()
    running: tuple[Running, ...] = ()
    running_in: tuple[Running, ...] = ()
    joules: Mapping[str, float] = field(default_factory=dict)
    conversion_s: Mapping[str, float] = field(default_factory=dict)
    stored: Mapping[str, Stored] = field(default_factory=dict)
    devices: Mapping[str, Devices] = field(default_factory=dict)
    choices: Mapping[str, Choice] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CostMoney:
    """What each part costs; None: without a price, or not measured. total: of those that are known.

    unpriced_bytes: of devices for which the price list has no price, up and down; they are in no part.
    """

    down: float | None = None
    up: float | None = None
    device_hours: float | None = None
    energy: float | None = None
    conversion: float | None = None
    storage: float | None = None
    total: float = 0.0
    unpriced_bytes: int = 0


@dataclass(frozen=True, slots=True)
class CostLine:
    """What a model or group cost. name: "" for devices in no group, and of the total.

    joules: of `measured_answers`, None when that is 0. devices, measured_devices: that run the model now, None of groups. conversion_s and
    what is stored belong to no group, and are None there. money: None without prices.
    """

    name: str
    down_bytes: int
    up_bytes: int
    telemetry_bytes: int
    prediction_bytes: int
    capture_bytes: int
    device_hours: float
    answers: int
    joules: float | None
    measured_answers: int
    devices: int | None
    measured_devices: int | None
    conversion_s: float | None
    stored_bytes: int | None
    stored_bundle_bytes: int | None
    stored_source_bytes: int | None
    stored_prediction_bytes: int | None
    stored_capture_bytes: int | None
    money: CostMoney | None = None


@dataclass(frozen=True, slots=True)
class BundleSaving:
    """What a smaller bundle would have saved: candidate bytes are of the model in it. how: the computation in words."""

    model: str
    release: str
    profile: str
    bundle: str
    candidate: str
    candidate_bytes: int
    smaller: str
    smaller_bytes: int
    drop: float | None
    sent_bytes: int
    saved_bytes: int
    saved: float | None
    how: str


@dataclass(frozen=True, slots=True)
class WindowSaving:
    """What windows `times` as long would have saved at most. window_bytes, window_s: the mean of those that came; how: in words."""

    model: str
    windows: int
    window_bytes: float
    window_s: float | None
    times: int
    saved_bytes: int
    saved: float | None
    how: str


@dataclass(frozen=True, slots=True)
class CostMethod:
    """How a figure was computed."""

    figure: str
    how: str


@dataclass(frozen=True, slots=True)
class CostReport:
    """What was asked, by model or group. is_sum: the total is the sum of the lines; by group it is not, a device may be in several.

    since: where counting began, a whole hour or day (UTC) before what was asked. counted_since: of the first bytes that were ever counted;
    None: none were. prices_from: `set` on the server, `given` with the question, or `none`. compared: bundles sent whose conversion
    report has candidates.
    """

    since: datetime
    until: datetime
    by: CostBy
    model: str
    group: str
    counted_since: datetime | None
    currency: str
    prices_from: str
    lines: list[CostLine]
    total: CostLine
    is_sum: bool
    bundles_sent: int
    compared: int
    smaller_bundles: list[BundleSaving]
    longer_windows: list[WindowSaving]
    methods: list[CostMethod]


@dataclass(frozen=True, slots=True)
class KnownPrices:
    """The prices that are set."""

    prices: Prices
    set_at: datetime
    set_by: str
