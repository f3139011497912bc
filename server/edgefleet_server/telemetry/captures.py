"""Captured records: asking a device for them, keeping what comes, giving it out. All of it sealed: the server has no key to open any.

It speaks to the fleet, which the rest of the telemetry feature does not need. Rules:
- A record is taken only for a fetch that an operator asked for, from the device that was asked, and at most as many as asked.
- (device, record) is the key: a record that comes twice counts once.
- A fetch is over with the message that says that none is left, or when its time is up.
- Records are removed KEPT after they came; a new key of the tenant changes nothing for records sealed before.
"""

import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from sqlmodel import Session

from edgefleet_protocol.clock import Clock
from edgefleet_protocol.desired import Task
from edgefleet_protocol.ids import DeviceId
from edgefleet_server.db.database import Database
from edgefleet_server.fleet.desired.capture_key import CaptureKeyBook
from edgefleet_server.fleet.desired.documents import DesiredBook
from edgefleet_server.fleet.inventory.views import FleetReader
from edgefleet_server.telemetry import store
from edgefleet_server.telemetry.errors import CaptureUnknownError, NoCaptureKeyError
from edgefleet_server.telemetry.ground_truth import store as truth_store
from edgefleet_server.telemetry.model import CaptureFetch, CaptureView
from edgefleet_server.telemetry.tables import TelemetryCapture, TelemetryCaptureFetch

FETCH_LIFE: Final = timedelta(days=1)
KEPT: Final = timedelta(days=30)


class CaptureService:
    """Fetches and gives out captured records. Thread-safe; calls block."""

    def __init__(
        self, db: Database, clock: Clock, devices: FleetReader, key: CaptureKeyBook, desired: DesiredBook
    ) -> None:
        """Wire the parts."""
        self._db = db
        self._clock = clock
        self._devices = devices
        self._key = key
        self._desired = desired

    def ask(self, device_id: str, *, model: str, reason: str, limit: int, by: str) -> CaptureFetch:
        """Ask a device for its newest records. Raises DeviceUnknownError, DeviceRevokedError, NoCaptureKeyError."""
        self._devices.check(device_id)
        if self._key.key() is None:
            raise NoCaptureKeyError(
                "no device captures anything: the tenant has no capture key",
                next_step="create one: `edgectl capture-key create --out capture.key`",
            )
        now = self._clock.now()
        row = TelemetryCaptureFetch(
            id=f"c-{secrets.token_hex(8)}",
            device_id=device_id,
            model=model,
            reason=reason,
            most=limit,
            asked_at=now,
            asked_by=by[:120],
            until=(now + FETCH_LIFE).replace(microsecond=0),
        )
        args = {"model": model, "reason": reason, "limit": limit}
        with self._db.session() as session:
            session.add(row)
            session.flush()
            self._desired.add_task(DeviceId(device_id), Task(id=row.id, kind="capture", until=row.until, args=args))
            return _fetch(row, now)

    def stored_bytes(self) -> dict[str, int]:
        """Return the bytes of all captured records, by model."""
        with self._db.read() as session:
            return store.capture_bytes(session)

    def fetch(self, device_id: str, fetch_id: str) -> CaptureFetch:
        """Return how a fetch stands. Raises CaptureUnknownError."""
        with self._db.read() as session:
            row = store.capture_fetch(session, fetch_id)
            if row is None or row.device_id != device_id:
                raise CaptureUnknownError(f"the device {device_id} has no fetch {fetch_id}")
            return _fetch(row, self._clock.now())

    def records(
        self, device_id: str, fetch_id: str | None, after: str | None, limit: int
    ) -> tuple[list[CaptureView], int]:
        """Return records of a device, of one fetch or of all, in order of id, and how many there are."""
        self._devices.check(device_id)
        with self._db.read() as session:
            rows, total = store.captures_page(session, device_id, fetch_id, after, limit)
            return _views(session, rows), total

    def records_of(
        self, fetches: Sequence[str], after: str | None, limit: int, max_bytes: int
    ) -> tuple[list[tuple[CaptureView, bytes]], str | None, int]:
        """Return records of some fetches with their sealed bytes in order of key, the key after which more come, and how many there are.

        after: a key; at most `limit`, and no more than `max_bytes` together but for the first one. The key is None with the last one.
        """
        device, _, record = (after or "").partition("/")
        with self._db.read() as session:
            sizes, total = store.captures_of(session, fetches, (device, record) if after else None, limit + 1)
            chosen: list[TelemetryCapture] = []
            left = max_bytes
            for device_id, name, size in sizes[:limit]:
                if chosen and size > left:
                    break
                row = store.capture(session, device_id, name)
                if row is not None:
                    chosen.append(row)
                    left -= size
            found = list(zip(_views(session, chosen), [row.sealed for row in chosen], strict=True))
            last = f"{found[-1][0].device}/{found[-1][0].id}" if found and len(found) < len(sizes) else None
            return found, last, total

    def record(self, device_id: str, record: str) -> tuple[CaptureView, bytes]:
        """Return one record with its sealed bytes. Raises CaptureUnknownError."""
        with self._db.read() as session:
            row = store.capture(session, device_id, record)
            if row is None:
                raise CaptureUnknownError(
                    f"there is no record {record} of the device {device_id}",
                    next_step="list them: GET /devices/{id}/captures",
                )
            return _views(session, [row])[0], row.sealed


def _fetch(row: TelemetryCaptureFetch, now: datetime) -> CaptureFetch:
    state = "done" if row.done_at is not None else "expired" if row.until <= now else "asked"
    return CaptureFetch(
        row.id, row.device_id, row.model, row.reason, row.most, state, row.received, row.asked_at, row.until
    )


def _views(session: Session, rows: Sequence[TelemetryCapture]) -> list[CaptureView]:
    truth = truth_store.labels_of(session, {(row.model, row.device_id, row.trace_id) for row in rows})
    return [_view(row, truth[row.model, row.device_id, row.trace_id]) for row in rows]


def _view(row: TelemetryCapture, truth: str) -> CaptureView:
    return CaptureView(
        id=row.record,
        device=row.device_id,
        fetch=row.fetch_id,
        model=row.model,
        sha256=row.sha256,
        reason=row.reason,
        label=row.label,
        trace_id=row.trace_id,
        taken_at=row.taken_at,
        received_at=row.received_at,
        seen=row.seen,
        key=row.key_id,
        bytes=row.size_bytes,
        ground_truth=truth,
    )
