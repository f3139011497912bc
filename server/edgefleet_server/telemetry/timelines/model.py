"""Values of figures over time. The dataclasses are bodies of routes: their fields are public and never renamed. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Final

MOST_POINTS: Final = 1_500
MOST_LINES: Final = 12
"""The lines with the most answers; the rest are one line together."""
MOST_CLASSES: Final = 5
"""The others are one together, and a chart has a place for six lines."""
REST: Final = "others"


class Scope(StrEnum):
    """Of what figures are."""

    FLEET = "fleet"
    MODEL = "model"
    GROUP = "group"
    DEVICE = "device"


class LinesBy(StrEnum):
    """By what lines are told apart."""

    NONE = "none"
    MODEL = "model"
    VERSION = "version"
    GROUP = "group"
    PROFILE = "profile"
    SITE = "site"


class MarkKind(StrEnum):
    """What happened."""

    DEPLOY = "deploy"
    DEPLOYED = "deployed"
    PAUSE = "pause"
    ROLLBACK = "rollback"
    ALERT = "alert"
    ALERT_OVER = "alert_over"
    DRIFT = "drift"
    DRIFT_OVER = "drift_over"
    OFFLINE = "offline"


@dataclass(frozen=True)
class Mark:
    """Something that happened. n: how often, where marks that say the same of one step are one. rollout, device: ids, "" where it concerns
    none. kind: deploy, deployed, pause, rollback, alert, alert_over, drift, drift_over, offline.
    """

    at: datetime
    kind: MarkKind
    title: str
    model: str = ""
    rollout: str = ""
    device: str = ""
    n: int = 1


@dataclass(frozen=True)
class ClassShares:
    """How large a part of the answers was one class, in each step; -1: all other classes."""

    index: int
    share: Sequence[float | None]


@dataclass(frozen=True)
class MetricLine:
    """One line: a value for each step, null where nothing was reported. key: a version, profile … ("" = all together).

    requests: answers that were counted; requests_per_s: null also where devices may still have to report. Latencies are of all requests
    of a step, within 1 %. classes: the most frequent.
    """

    key: str
    requests: Sequence[int | None]
    requests_per_s: Sequence[float | None]
    errors: Sequence[int | None]
    timeouts: Sequence[int | None]
    nonfinite: Sequence[int | None]
    crashes: Sequence[int | None]
    p50_ms: Sequence[float | None]
    p95_ms: Sequence[float | None]
    p99_ms: Sequence[float | None]
    classes: Sequence[ClassShares]


@dataclass(frozen=True)
class DriftLine:
    """How far one signal was from its reference (PSI) in equal steps from `since` on, null where nothing was reported."""

    signal: str
    since: datetime
    step_s: int
    psi: Sequence[float | None]


@dataclass(frozen=True)
class Timeline:
    """Figures over time. scope: fleet, model, group or device; name: which. at: the beginnings of steps of `step_s` seconds.

    system: figures of the devices themselves, by name: means over devices, ratios 0 … 1, sizes bytes; traffic is bytes a second of all
    of them together. online_ratio: the share of devices online, of a device the share of the time; drifting_ratio: of devices online, those
    that report drift. system_most: the largest of any device. marks: what happened, oldest first. classes: of a model, over all lines.
    limits: of a device, in °C, where its kernel says so: `throttles_at_celsius`, `critical_at_celsius`.
    """

    scope: Scope
    name: str
    by: LinesBy
    since: datetime
    until: datetime
    step_s: int
    at: Sequence[datetime]
    lines: Sequence[MetricLine]
    system: Mapping[str, Sequence[float | None]]
    system_most: Mapping[str, Sequence[float | None]]
    drift: Sequence[DriftLine]
    marks: Sequence[Mark]
    classes: Sequence[ClassShares] = ()
    limits: Mapping[str, float] = field(default_factory=dict)


def line_name(key: str, by: LinesBy) -> str:
    """Return how a line is named; "" is the key of all together, or of what belongs to none."""
    return key or ("all" if by is LinesBy.NONE else f"no {by}")
