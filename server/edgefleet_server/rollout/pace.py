"""Values of a rollout's pace: how fast, how many at once, when, how often again. The spec's and the running rollout's.

Its own module because the parser, the planner and the views share them, and `model` refers to them. Nothing here decides.
Source: fleet.md §5.2, §5.5.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from edgefleet_protocol.ids import DeviceId, RolloutId
from edgefleet_protocol.messages import AssignmentState, ErrorClass

OFFLINE: Final = "offline"
"""The error class of a device that stayed away, where the spec counts these as failed. The server's word, no device's."""
TZ_DEVICE: Final = "device"
TZ_LABEL: Final = "tz"
SITE_LABEL: Final = "site"

WAITING: Final = frozenset({AssignmentState.ELIGIBLE, AssignmentState.OFFERED})
"""Devices that a pace may hold: those whose try has not begun."""

DEFAULT_FACTOR: Final = 2.0
DEFAULT_MAX: Final = 1000

# ---- the spec's


@dataclass(frozen=True, slots=True)
class Rate:
    """Offers a minute over all strata of a stage: the first minute's, what a good minute multiplies it by, and the most."""

    start: int
    factor: float = DEFAULT_FACTOR
    max: int = DEFAULT_MAX


@dataclass(frozen=True, slots=True)
class Limits:
    """What may be under way at once. None: unlimited. bandwidth_bps: bits a second of bundles begun.

    The first two count the downloads of all rollouts that have limits: server and site links are shared.
    """

    concurrent_downloads: int | None = None
    per_site: int | None = None
    bandwidth_bps: int | None = None

    @property
    def are_set(self) -> bool:
        """Whether there is any: only then does a rollout take leases."""
        return (self.concurrent_downloads, self.per_site, self.bandwidth_bps) != (None, None, None)


@dataclass(frozen=True, slots=True)
class Window:
    """When devices may be offered: from each start that `cron` names, for `duration`. tz: `device`, `UTC` or an IANA name."""

    cron: str
    duration: timedelta
    tz: str = TZ_DEVICE


@dataclass(frozen=True, slots=True)
class Retries:
    """How often the server offers again after a failure of these classes: `max` times, after a wait that doubles."""

    max: int = 3
    least: timedelta = timedelta(minutes=2)
    most: timedelta = timedelta(hours=1)
    on: tuple[ErrorClass, ...] = (ErrorClass.NETWORK, ErrorClass.DISK)


class CountAs(StrEnum):
    """What a device counts as that stayed away."""

    EXCLUDED = "excluded"
    FAILED = "failed"


class OnReturn(StrEnum):
    """What happens when such a device comes back."""

    JOIN = "join"


@dataclass(frozen=True, slots=True)
class Offline:
    """After how long without a word a device that is due counts as `count`."""

    after: timedelta = timedelta(hours=72)
    count: CountAs = CountAs.EXCLUDED
    on_return: OnReturn = OnReturn.JOIN


@dataclass(frozen=True, slots=True)
class Pacing:
    """All of a spec that says how fast and when, but for the rates, which stand in the stages. retries None: devices try by themselves.

    start_within: over how long devices begin to download, None: as many of them need that are offered at once (`spreading`).
    """

    limits: Limits = Limits()
    windows: tuple[Window, ...] = ()
    retries: Retries | None = None
    offline: Offline = Offline()
    start_within: timedelta | None = None

    @property
    def recalls(self) -> bool:
        """Whether an offer that nobody takes up is taken back: it may not be carried out at any time."""
        return self.limits.are_set or bool(self.windows)


NO_PACING: Final = Pacing()


# ---- the running rollout's


@dataclass(frozen=True, slots=True)
class Minute:
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

    minutes: tuple[Minute, ...] = ()
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

# ---- what the planner wants done


@dataclass(frozen=True, slots=True)
class MinuteNoted:
    """The minute of a stage is this one now."""

    minute: Minute


@dataclass(frozen=True, slots=True)
class LeaseTaken:
    """A download may begin."""

    lease: Lease


@dataclass(frozen=True, slots=True)
class LeaseEnded:
    """A device downloads no more."""

    device: DeviceId


@dataclass(frozen=True, slots=True)
class LineBooked:
    """The line is booked up to then."""

    until: datetime


PaceEffect = MinuteNoted | LeaseTaken | LeaseEnded | LineBooked
