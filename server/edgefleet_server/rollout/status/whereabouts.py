"""Where the devices of a rollout are on their way, what it would cost to take the release back, and how it went back. Pure.

- A device is in one place only. One that is on its way or soaks and is not online is silent: silence never counts as good.
- Devices that match and have no part yet, because their stage is not open, wait.
- Going back costs no byte where a slot of the device still holds what it ran before, as its last report says.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from edgefleet_protocol.ids import DeviceId
from edgefleet_protocol.messages import AssignmentState
from edgefleet_server.fleet.model import DeviceStatus
from edgefleet_server.fleet.reported.model import ModelReport
from edgefleet_server.rollout.commands.undo import release_of
from edgefleet_server.rollout.model import Assignment, Lot, RolloutState, StageRun
from edgefleet_server.rollout.planner.document_state import needs_rollback
from edgefleet_server.rollout.state_machines import IN_FLIGHT, OUTSIDE, is_failure

_S = AssignmentState
TURNED_BAD: Final = frozenset(
    {
        RolloutState.ROLLING_BACK,
        RolloutState.ROLLED_BACK,
        RolloutState.ROLLBACK_INCOMPLETE,
        RolloutState.REGRESSED,
    }
)
"""States in which it is counted how the release went back."""


@dataclass(frozen=True, slots=True)
class DeviceFlow:
    """How many devices are where. outside: they have no part any more, or never had; back: the server takes the release back, or did."""

    waiting: int = 0
    installing: int = 0
    silent: int = 0
    soaking: int = 0
    healthy: int = 0
    failed: int = 0
    back: int = 0
    outside: int = 0

    @property
    def total(self) -> int:
        """All devices that have a part."""
        return self.waiting + self.installing + self.silent + self.soaking + self.healthy + self.failed + self.back


@dataclass(frozen=True, slots=True)
class WayBack:
    """What going back would cost. bytes: to download, None where there are too many devices to look at, or a release is named for it."""

    devices: int = 0
    bytes: int | None = None
    downloads: int = 0
    without: int = 0
    """Devices that ran nothing of the model before."""


@dataclass(frozen=True, slots=True)
class Recovery:
    """How a release went back, nothing in states other than TURNED_BAD. exposed: devices that ever took it up.

    first_failed_at: when the first device failed.
    """

    exposed: int = 0
    first_failed_at: datetime | None = None
    back: int = 0
    last_back_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Whereabouts:
    """All of it. replaced: releases that the devices ran before, the most frequent first."""

    flow: DeviceFlow
    way_back: WayBack
    recovery: Recovery
    replaced: tuple[str, ...] = ()
    silent: tuple[str, ...] = ()
    """The first silent devices."""


def is_on_its_way(a: Assignment, soaks: Sequence[timedelta], now: datetime) -> bool:
    """Return whether a device installs the release, or soaks with it."""
    return not is_failure(a) and not a.back_gen and (a.state in IN_FLIGHT or _is_soaking(a, soaks, now))


def _is_soaking(a: Assignment, soaks: Sequence[timedelta], now: datetime) -> bool:
    return a.state is _S.HEALTHY and (a.switched_at is None or a.switched_at + soaks[a.stage] > now)


def place_of(a: Assignment, soaks: Sequence[timedelta], now: datetime) -> str:
    """Return the field of DeviceFlow that a device counts in while it is not silent."""
    if is_failure(a):
        return "failed"
    if a.state in OUTSIDE:
        return "outside"
    if a.back_gen:
        return "back"
    if a.state in IN_FLIGHT:
        return "installing"
    match a.state:
        case _S.UNREACHABLE:
            return "silent"
        case _S.ROLLED_BACK:
            return "back"
        case _S.HEALTHY:
            return "soaking" if _is_soaking(a, soaks, now) else "healthy"
        case _:
            return "waiting"


def flow_of(
    lots: Iterable[Lot],
    cells: Iterable[StageRun],
    away: Iterable[Assignment],
    soaks: Sequence[timedelta],
    now: datetime,
) -> DeviceFlow:
    """Return how many devices are where. away: those on their way that are not online."""
    counts: Counter[str] = Counter()
    by_stratum: Counter[str] = Counter()
    for a, n in lots:
        counts[place_of(a, soaks, now)] += n
        by_stratum[a.stratum] += n
    for a in away:
        counts[place_of(a, soaks, now)] -= 1
        counts["silent"] += 1
    populations: dict[str, int] = {}
    for cell in cells:
        populations[cell.stratum] = max(populations.get(cell.stratum, 0), cell.population)
    counts["waiting"] += sum(max(0, n - by_stratum[stratum]) for stratum, n in populations.items())
    return DeviceFlow(**counts)


def way_back(devices: int, looked_at: Sequence[Assignment] | None, reports: Mapping[DeviceId, ModelReport]) -> WayBack:
    """Return what going back would cost. devices: that would; looked_at: all of them, None where that is not known."""
    if looked_at is None:
        return WayBack(devices)
    going = [one for one in looked_at if needs_rollback(one)]
    loads = [n for one in going if (n := _bytes_back(one, reports.get(one.device)))]
    return WayBack(len(going), sum(loads), len(loads), sum(one.previous is None for one in going))


def _bytes_back(a: Assignment, report: ModelReport | None) -> int:
    if a.previous is None or (report and a.previous.sha256 in (report.active_sha256, report.previous_sha256)):
        return 0
    return a.previous.length


def replaced_by(assignments: Iterable[Assignment]) -> tuple[str, ...]:
    """Return the releases that devices ran before, the most frequent first."""
    found = Counter(release for one in assignments if (release := release_of(one.previous)))
    return tuple(name for name, _ in found.most_common())


def away_of(looked_at: Iterable[Assignment], reports: Mapping[DeviceId, ModelReport]) -> list[Assignment]:
    """Return the devices that are not online."""
    return [
        one
        for one in looked_at
        if (report := reports.get(one.device)) is None or report.status is not DeviceStatus.ONLINE
    ]
