"""What devices show to who watches them: kept for minutes, given out to each who looks (ADR 0044).

It speaks to the fleet, which the rest of the telemetry feature does not need. Rules:
- To look is to watch on: asking in time has the device's document signed again before its watch ends. Nobody has to end one.
- The newest 64 messages of a device are kept, ten minutes long. They are rows, so that any replica can answer.
- A device shows what it likes within these bounds; what is no line is left out.
"""

from datetime import datetime

import msgspec

from edgefleet_protocol.clock import Clock
from edgefleet_protocol.ids import DeviceId
from edgefleet_protocol.messages import PredictionLine
from edgefleet_server.db.database import Database
from edgefleet_server.fleet.desired.content import LIFE
from edgefleet_server.fleet.desired.documents import DesiredBook
from edgefleet_server.fleet.inventory.views import FleetReader
from edgefleet_server.telemetry import store
from edgefleet_server.telemetry.model import PredictionsView, WatchView
from edgefleet_server.telemetry.rules import prediction_view


class LivePredictions:
    """Begins a watch and gives out what is seen. Thread-safe; calls block."""

    def __init__(self, db: Database, clock: Clock, devices: FleetReader, desired: DesiredBook) -> None:
        """Wire the parts."""
        self._db = db
        self._clock = clock
        self._devices = devices
        self._desired = desired

    def begin(self, device_id: str) -> WatchView:
        """Watch a device from now on. Raises DeviceUnknownError, DeviceRevokedError."""
        self._devices.check(device_id)
        until = self._desired.watch(DeviceId(device_id))
        return WatchView(device_id, until, self._devices.device(device_id).status.value)

    def shown(self, device_id: str) -> PredictionsView | None:
        """Return what a device that somebody watches has shown, without watching on; None where nobody watches."""
        until = self._desired.watched_until(DeviceId(device_id))
        return None if until is None else self._view(device_id, 0, "", until)

    def look(self, device_id: str, after_id: int, model: str) -> PredictionsView:
        """Return what came after a message, of one model or of all (""); a watch that is in force goes on.

        Raises DeviceUnknownError, DeviceRevokedError.
        """
        self._devices.check(device_id)
        until = self._desired.watched_until(DeviceId(device_id))
        if until is not None and until - self._clock.now() < LIFE / 2:
            until = self._desired.watch(DeviceId(device_id))
        return self._view(device_id, after_id, model, until)

    def _view(self, device_id: str, after_id: int, model: str, until: datetime | None) -> PredictionsView:
        with self._db.read() as session:
            rows = store.watched_after(session, device_id, after_id)
            items = [
                prediction_view(line)
                for row in rows
                for line in msgspec.msgpack.decode(row.lines, type=list[PredictionLine])
                if model in {"", line.model}
            ]
            return PredictionsView(
                items=items,
                last_id=max((row.id or 0 for row in rows), default=after_id),
                until=until,
                state=rows[-1].state if rows else "",
                seen=sum(row.seen for row in rows),
            )
