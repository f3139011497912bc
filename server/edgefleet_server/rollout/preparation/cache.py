"""What this process still knows of rollouts from its last look, so that the next one reads only what changed.

Nothing rests on it: whatever is not surely what the database holds is read anew.
- Assignments are written under the fence alone, and every claim and every command raises it by one. Who wrote them last with fence n
  and holds n + 1 now knows that nobody wrote in between.
- Reports have marks (`ReportedStateReader.marks`); only those whose mark differs are read.
- Members are matched anew when nine times the time has passed that matching took, so that matching takes a tenth of the time at most.
- The snapshot of a look that found nothing to do stays right in all that is written under the fence, while the fence is the same.

Thread-safe: what is kept is never changed, only replaced. Each shelf keeps MOST_KEPT devices at most.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from edgefleet_protocol.clock import Clock
from edgefleet_protocol.ids import DeviceId
from edgefleet_server.rollout.model import Assignment, Member, Report, Snapshot

MOST_KEPT: Final = 250_000
PATIENCE: Final = 9
_Value = TypeVar("_Value")
Mark = tuple[object, ...]


@dataclass(frozen=True, slots=True)
class Written:
    """A rollout's assignments as they were written under a fence, in order of device."""

    fence: int
    assignments: tuple[Assignment, ...]


@dataclass(frozen=True, slots=True)
class CachedReports:
    """What devices said, and the marks of that."""

    marks: Mapping[DeviceId, Mark] = field(default_factory=dict)
    reports: Mapping[DeviceId, Report] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CachedMembers:
    """Who matched, and until when (monotonic seconds) that is good enough."""

    until_s: float
    members: tuple[Member, ...]


@dataclass(frozen=True, slots=True)
class CachedIdle:
    """A rollout as a look found it that had nothing to do, and the fence of that look."""

    fence: int
    snapshot: Snapshot


class _Shelf(Generic[_Value]):
    """Values by rollout, the least used given up first when their sizes together are too much."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, tuple[int, _Value]] = OrderedDict()

    def get(self, name: str) -> _Value | None:
        found = self._kept.get(name)
        return None if found is None else found[1]

    def drop(self, name: str) -> None:
        self._kept.pop(name, None)

    def put(self, name: str, size: int, value: _Value) -> None:
        self._kept.pop(name, None)
        self._kept[name] = (size, value)
        while self._kept and sum(size for size, _ in list(self._kept.values())) > MOST_KEPT:
            self._kept.popitem(last=False)


class SnapshotCache:
    """What is kept of all rollouts of this process."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._written: _Shelf[Written] = _Shelf()
        self._heard: _Shelf[CachedReports] = _Shelf()
        self._matched: _Shelf[CachedMembers] = _Shelf()
        self._rested: _Shelf[CachedIdle] = _Shelf()

    def assignments(self, rollout_id: str, fence: int) -> tuple[Assignment, ...] | None:
        """Return a rollout's assignments when they are surely those of the database. fence: the one that is held."""
        found = self._written.get(rollout_id)
        if found is not None and found.fence + 1 != fence:
            self._written.drop(rollout_id)  # a later fence must not make it look right again
            return None
        return None if found is None else found.assignments

    def wrote(self, rollout_id: str, fence: int, assignments: Sequence[Assignment]) -> None:
        """Keep what was written, once it is committed."""
        self._written.put(rollout_id, len(assignments), Written(fence, tuple(assignments)))

    def heard(self, rollout_id: str) -> CachedReports:
        """Return what is known of devices' reports."""
        return self._heard.get(rollout_id) or CachedReports()

    def hear(self, rollout_id: str, heard: CachedReports) -> None:
        """Keep what devices said."""
        self._heard.put(rollout_id, len(heard.reports), heard)

    def now_s(self) -> float:
        """Return the monotonic time, in seconds."""
        return self._clock.monotonic_s()

    def members(self, rollout_id: str) -> tuple[Member, ...] | None:
        """Return who matched a moment ago, None when that is too long ago."""
        found = self._matched.get(rollout_id)
        return found.members if found is not None and self.now_s() < found.until_s else None

    def match(self, rollout_id: str, members: tuple[Member, ...], began_s: float) -> None:
        """Keep who matched, for a multiple of the time since `began_s`."""
        now_s = self.now_s()
        self._matched.put(rollout_id, len(members), CachedMembers(now_s + PATIENCE * (now_s - began_s), members))

    def rest(self, rollout_id: str, fence: int, snapshot: Snapshot) -> None:
        """Keep a rollout that had nothing to do under a fence, once that is committed."""
        self._rested.put(rollout_id, 1 + len(snapshot.assignments) + len(snapshot.members), CachedIdle(fence, snapshot))

    def rested(self, rollout_id: str, fence: int) -> Snapshot | None:
        """Return what was kept under this very fence. fence: of the row, which is locked."""
        found = self._rested.get(rollout_id)
        return None if found is None or found.fence != fence else found.snapshot

    def rouse(self, rollout_id: str) -> None:
        """Forget what was kept: it has something to do, or could not be looked at."""
        self._rested.drop(rollout_id)
