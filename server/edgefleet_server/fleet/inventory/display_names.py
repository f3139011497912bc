"""The display names of all devices, kept for pages that name many devices and know only their ids. Thread-safe; calls block."""

import threading
import time
from collections.abc import Callable, Mapping
from typing import Final

from sqlalchemy import select
from sqlmodel import col

from edgefleet_server.db.database import Database
from edgefleet_server.fleet.tables import FleetDevice

MIN_AGE_S: Final = 2.0
COST: Final = 50
"""A map is used so many times longer than it took to read: at most 2 % of the time goes into reading names, in a fleet of any size."""


class DisplayNames:
    """The names, read again when they are older than `MIN_AGE_S` and somebody asks."""

    def __init__(self, db: Database, clock: Callable[[], float] = time.monotonic) -> None:
        """Read from `db`. clock: seconds."""
        self._db = db
        self._clock = clock
        self._lock = threading.Lock()
        self._names: Mapping[str, str] = {}
        self._until = 0.0

    def name_of(self, device_id: str) -> str:
        """Return the display name of a device, "" when it has none; a change shows after some seconds."""
        if self._clock() >= self._until:
            with self._lock:
                if self._clock() >= self._until:
                    self._read()
        return self._names.get(device_id, "")

    def _read(self) -> None:
        begun = self._clock()
        named = select(col(FleetDevice.id), col(FleetDevice.display_name)).where(col(FleetDevice.display_name) != "")
        with self._db.read() as session:
            self._names = {str(device): str(name) for device, name in session.execute(named)}
        ended = self._clock()
        self._until = ended + max(MIN_AGE_S, COST * (ended - begun))
