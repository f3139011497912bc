"""The time of the database, for what several processes time in one row: leases, the next look, deadlines, rates.

A replica whose own clock is a minute ahead would hold a lease for a minute more than it may, and put the next look at a rollout so
far off that nobody takes it over in time when it dies. So all that rollouts write and compare is one time, the database's, and so are the
times in what they go by: events and the reports of devices. Conversions and deliveries of webhooks are leased by it, too. Rules:

- SQLite has no clock of its own, and its processes share a machine: their clock is taken as it is. So is one that a test turns, which
  no database goes by: who makes the parts says so, and rollouts only see a `Clock`.
- The database is asked every so often, not for each moment: in between the monotonic clock goes on, so a step of the own clock moves
  nothing. A step and a machine that slept look the same from here: then it is asked again at once.
- Not SQL `now()` in the claim: lease and next look are also compared with what a tick decided, and decisions take `now` as an argument.
- Signing goes by the machine's own clock: somebody who can set that of the database must not prolong what was signed.
"""

import logging
import threading
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError

from edgefleet_protocol.clock import Clock
from edgefleet_server.db.database import Database

ASK_EVERY_S: Final = 30.0
SLOWEST_ANSWER_S: Final = 1.0
"""What took longer tells the time too badly: an earlier answer is better."""
STEP: Final = timedelta(seconds=1)
TELL_FROM: Final = timedelta(seconds=5)

_log = logging.getLogger(__name__)


def shared_clock(db: Database, own: Clock) -> Clock:
    """Return the clock that all processes of a database have in common."""
    return own if db.is_sqlite else DatabaseClock(db, own)


@dataclass(frozen=True, slots=True)
class _Anchor:
    """One answer: the database's time, and what the own clocks showed in that moment."""

    time: datetime
    own: datetime
    monotonic_s: float


class DatabaseClock:
    """The database's clock (satisfies ``edgefleet_protocol.clock.Clock``). Thread-safe; blocks when it has to ask."""

    def __init__(self, db: Database, own: Clock) -> None:
        self._db = db
        self._own = own
        self._anchor: _Anchor | None = None
        self._asking = threading.Lock()

    def now(self) -> datetime:
        """Return the database's time. Raises SQLAlchemyError as long as the database has never answered."""
        anchor = self._anchor
        if anchor is None:
            with self._asking:
                anchor = self._anchor or self._ask()
        elif self._is_old(anchor) and self._asking.acquire(blocking=False):  # one asks, the others go on
            try:
                anchor = self._ask()
            except SQLAlchemyError:
                _log.info("the database was not asked for its time: it does not answer")
            finally:
                self._asking.release()
        return anchor.time + timedelta(seconds=self._own.monotonic_s() - anchor.monotonic_s)

    def monotonic_s(self) -> float:
        """Return seconds from an arbitrary start that never run backwards."""
        return self._own.monotonic_s()

    def _is_old(self, anchor: _Anchor) -> bool:
        passed_s = self._own.monotonic_s() - anchor.monotonic_s
        stepped = self._own.now() - anchor.own - timedelta(seconds=passed_s)
        return passed_s >= ASK_EVERY_S or abs(stepped) >= STEP

    def _ask(self) -> _Anchor:
        """Ask the database, and keep the answer if it is good enough. The caller holds the lock."""
        known = self._anchor
        with self._db.engine.connect() as connection:  # not the caller's: its transaction may have failed
            began_s = self._own.monotonic_s()
            reading: datetime = connection.execute(select(func.clock_timestamp())).scalar_one()
            ended_s = self._own.monotonic_s()
        found = _Anchor(reading, self._own.now(), (began_s + ended_s) / 2)
        if known is not None and ended_s - began_s > SLOWEST_ANSWER_S:
            return known
        if known is None and abs(found.own - found.time) >= TELL_FROM:
            ahead_s = round((found.own - found.time).total_seconds(), 1)
            _log.warning("the clock of this machine is not the database's", extra={"ahead_s": ahead_s})
        self._anchor = found
        return found
