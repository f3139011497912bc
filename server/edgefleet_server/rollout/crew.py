"""Carries out what is left of a large plan: on PostgreSQL two portions at a time, each in a transaction of its own.

Its own file because the engine looks and claims, and this only writes. While one portion waits for the database the other one is
composed and signed. Rules:
- A wave of portions begins with a word to the rollout's row, locked: the fence is ours, and the lease goes on. Its portions hold the row
  together (a share lock), so a command waits for the wave that has begun, and the next one for the command.
- Before each portion it is asked whether a device of the rollout failed since the look. Then nothing more is begun: what is left was
  never written, and the next look plans anew.
- Portions have no device in common, and each locks its devices in order of id. On SQLite, which has one writer, they come one by one.
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
from edgefleet_server.db import Database
from edgefleet_server.fleet.service import FleetService
from edgefleet_server.rollout import store
from edgefleet_server.rollout.carrying import Carrier
from edgefleet_server.rollout.model import Assignment, Effect, Plan, Snapshot
from edgefleet_server.rollout.tables import Rollout

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

    Until then the look's own time stands there, so whoever takes the rollout over looks at once.
    """
    row.next_eval_at = tick.now if tick.todo else tick.plan.next_at
    row.lease_until = now + store.LEASE if tick.todo else None


class Ending(Enum):
    """How carrying out ended."""

    WRITTEN = "written"
    DROPPED = "dropped"
    """A device failed meanwhile."""
    TAKEN_OVER = "taken over"


class Crew:
    """Writes portions."""

    def __init__(self, db: Database, fleet: FleetService, carrier: Carrier, clock: Clock) -> None:
        """Wire the parts."""
        self._db = db
        self._fleet = fleet
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
            row = store.hold_fence(session, tick.rollout_id, tick.fence)
            if row is None:
                return False
            write_claim(row, tick, self._clock.now())
            return True

    def _write(self, tick: Tick, effects: Sequence[Effect]) -> Ending:
        """Write one portion."""
        if any(device in tick.known for device in self._fleet.offers.failed_since(tick.model, tick.now)):
            return Ending.DROPPED
        with self._db.session() as session:
            row = store.share_fence(session, tick.rollout_id, tick.fence)
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
