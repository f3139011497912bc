"""Cuts a large plan into batches, each of which is one transaction, and carries them out: on PostgreSQL two at a time.

A transaction that signs 50,000 documents would hold the devices' rows for ten seconds. Between two batches it is asked
whether this process still holds the rollout and whether a device failed meanwhile; then what is left is dropped. It was never
written, so nothing is half done, and the next pass plans again. Rules:
- What belongs to no document goes first, then so many devices at a time, each with all that the plan says of it.
- A plan that takes from what all rollouts share (leases, rates) is not cut: what it took must be written with what it is for.
- A group of batches begins by locking the rollout's row: the fence is ours, and the lease is extended. Its batches hold the
  row together (a share lock), so a command waits for the group that has begun, and the next group waits for the command.
- Batches have no device in common, and each locks its devices in order of id. On SQLite, which has one writer, they come one
  by one.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Final

from edgefleet_protocol.clock import Clock
from edgefleet_protocol.ids import DeviceId
from edgefleet_server.db.database import Database
from edgefleet_server.fleet.reported.reader import ReportedStateReader
from edgefleet_server.rollout.controller.executor import Executor
from edgefleet_server.rollout.effects import (
    AssignmentCreated,
    AssignmentTransitioned,
    AssignmentUpdated,
    BandwidthBooked,
    Effect,
    LeaseEnded,
    LeaseTaken,
    Offer,
    Plan,
    RampWindowUpdated,
    Revert,
)
from edgefleet_server.rollout.model import Assignment, Snapshot
from edgefleet_server.rollout.store import rollouts
from edgefleet_server.rollout.store.tables import Rollout

PORTION: Final = 1_000
"""Documents that one transaction signs."""

_DOCUMENTS: Final = (Offer, Revert)

_SHARED: Final = (RampWindowUpdated, LeaseTaken, LeaseEnded, BandwidthBooked)


def portions(plan: Plan, size: int = PORTION) -> list[tuple[Effect, ...]]:
    """Return the plan's effects in the order in which they are carried out, `size` documents at a time; at least one portion."""
    documents = dict.fromkeys(effect.device for effect in plan.effects if isinstance(effect, _DOCUMENTS))
    is_shared = any(isinstance(effect, _SHARED) for effect in plan.effects)
    if len(documents) <= size or is_shared:
        return [plan.effects]
    place = {device: number // size for number, device in enumerate(documents)}
    found: list[list[Effect]] = [[] for _ in range(max(place.values()) + 1)]
    for effect in plan.effects:
        device = _device_of(effect)
        found[0 if device is None else place.get(device, 0)].append(effect)
    return [tuple(one) for one in found]


def _device_of(effect: Effect) -> DeviceId | None:
    """Return whose document an effect goes with, None when it goes first."""
    match effect:
        case AssignmentCreated() | AssignmentTransitioned() | AssignmentUpdated():
            return effect.assignment.device
        case Offer() | Revert():
            return effect.device
        case _:
            return None


HANDS: Final = 2
"""Portions that are written at the same time: more only wait for this process's one processor."""

WAVE: Final = 4

_Each = Callable[[Callable[[Sequence[Effect]], "Ending"], Sequence[Sequence[Effect]]], Iterable["Ending"]]


@dataclass(slots=True)
class Tick:
    """One tick of one rollout, being carried out. todo: portions that are not written yet; known: assignments as written so far."""

    rollout_id: str
    fence: int
    model: str
    snapshot: Snapshot
    plan: Plan
    now: datetime
    todo: list[tuple[Effect, ...]]
    known: dict[DeviceId, Assignment]


def write_claim(row: Rollout, tick: Tick, now: datetime) -> None:
    """Write into a rollout's row what is to come: the lease goes on while portions are left, and ends with the next look's time.

    Until then the look's own time stands there, so the process that takes the rollout over looks at once.
    """
    row.next_eval_at = tick.now if tick.todo else tick.plan.next_at
    row.lease_until = now + rollouts.LEASE if tick.todo else None


class Ending(Enum):
    """How carrying out ended."""

    WRITTEN = "written"
    DROPPED = "dropped"
    """A device failed meanwhile."""
    TAKEN_OVER = "taken over"


class BatchExecutor:
    """Writes portions."""

    def __init__(self, db: Database, reports: ReportedStateReader, carrier: Executor, clock: Clock) -> None:
        """Wire the parts."""
        self._db = db
        self._reports = reports
        self._carrier = carrier
        self._clock = clock

    def carry(self, tick: Tick) -> Ending:
        """Write the portions that are left; return how that ended. What could not be written stays in `tick.todo`."""
        if not tick.todo:
            return Ending.WRITTEN
        size = 1 if self._db.is_sqlite else WAVE
        with _hands(1 if self._db.is_sqlite else HANDS) as each:
            while tick.todo:
                wave = tick.todo[:size]
                if not self._say(tick):
                    return Ending.TAKEN_OVER
                endings = list(each(lambda effects: self._write(tick, effects), wave))
                tick.todo[:size] = [
                    one for one, ending in zip(wave, endings, strict=True) if ending is not Ending.WRITTEN
                ]
                bad = [ending for ending in endings if ending is not Ending.WRITTEN]
                if bad:
                    return bad[0]
        return Ending.WRITTEN if self._say(tick) else Ending.TAKEN_OVER

    def _say(self, tick: Tick) -> bool:
        """Say in the rollout's row what is to come; return whether it is still ours."""
        with self._db.session() as session:
            row = rollouts.hold_fence(session, tick.rollout_id, tick.fence)
            if row is None:
                return False
            write_claim(row, tick, self._clock.now())
            return True

    def _write(self, tick: Tick, effects: Sequence[Effect]) -> Ending:
        """Write one portion."""
        if any(device in tick.known for device in self._reports.failed_since(tick.model, tick.now)):
            return Ending.DROPPED
        with self._db.session() as session:
            row = rollouts.share_fence(session, tick.rollout_id, tick.fence)
            if row is None:
                return Ending.TAKEN_OVER
            self._carrier.carry_part(session, row, tick.snapshot, effects, tick.known, actor="engine", now=tick.now)
        return Ending.WRITTEN


@contextmanager
def _hands(number: int) -> Iterator[_Each]:
    """Yield what does something with each of some things, in this thread or in so many others; an error is raised after all ended."""
    if number == 1:
        yield map
        return
    with ThreadPoolExecutor(number, thread_name_prefix="rollout-portion") as pool:
        yield lambda act, things: [one.result() for one in [pool.submit(act, thing) for thing in things]]
