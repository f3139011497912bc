"""Tables of the telemetry feature. Only `store.py` reads and writes them."""

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, Column, Index, LargeBinary, UniqueConstraint, text
from sqlmodel import Field, SQLModel

from edgefleet_server.db.database import UtcDateTime


class TelemetryBatch(SQLModel, table=True):
    """One message of one device: its key makes a replay count once; `system` are the device's own figures then."""

    __tablename__ = "telemetry_batch"
    __table_args__ = (Index("ix_telemetry_batch_device_received", "device_id", "received_at"),)

    device_id: str = Field(primary_key=True, max_length=63)
    boot_id: str = Field(primary_key=True, max_length=64)
    seq: int = Field(sa_column=Column(BigInteger, primary_key=True, autoincrement=False))
    at: datetime = Field(sa_type=UtcDateTime)
    received_at: datetime = Field(sa_type=UtcDateTime, index=True)
    system: dict[str, Any] = Field(sa_column=Column(JSON, nullable=False))
    queue_bytes: int = Field(sa_type=BigInteger)
    dropped: int = Field(sa_type=BigInteger)


class TelemetryWindow(SQLModel, table=True):
    """One window of one model and lane. `latency` and `classes` are MessagePack lists of whole numbers.

    `shadow`: MessagePack `ShadowFigures` of a candidate's window, else empty.
    """

    __tablename__ = "telemetry_window"
    __table_args__ = (
        Index("ix_telemetry_window_device_received", "device_id", "received_at"),
        Index("ix_telemetry_window_sha256_received", "sha256", "received_at"),
    )

    id: int | None = Field(default=None, primary_key=True)
    device_id: str = Field(max_length=63)
    model: str = Field(max_length=63)
    lane: str = Field(max_length=16)
    sha256: str = Field(max_length=64)
    version: str = Field(max_length=63)
    t0: datetime = Field(sa_type=UtcDateTime)
    length_s: int
    received_at: datetime = Field(sa_type=UtcDateTime, index=True)
    n: int = Field(sa_type=BigInteger)
    errors: int = Field(sa_type=BigInteger)
    timeouts: int = Field(sa_type=BigInteger)
    nonfinite: int = Field(sa_type=BigInteger)
    crashes: int = Field(sa_type=BigInteger)
    latency: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    latency_p95_ms: float | None = Field(default=None, nullable=True)
    """Of `latency`, for lists that draw a trend of many devices; None where nothing was counted or an older server stored it."""
    classes: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    worker_rss_bytes: int = Field(sa_type=BigInteger)
    worker_cpu_s: float
    joules_per_answer: float = Field(default=-1.0, sa_column_kwargs={"server_default": text("-1")})
    shadow: bytes | None = Field(default=None, sa_column=Column(LargeBinary, nullable=True))


class TelemetryWatched(SQLModel, table=True):
    """One message of a device that somebody watches: its newest answers, for some minutes. `lines`: MessagePack `PredictionLine`s."""

    __tablename__ = "telemetry_watched"
    # who looks asks for what came after an id: one that was used must not come again when all are pruned
    __table_args__ = (UniqueConstraint("device_id", "boot_id", "seq"), {"sqlite_autoincrement": True})

    id: int | None = Field(default=None, primary_key=True)
    device_id: str = Field(max_length=63)
    boot_id: str = Field(max_length=64)
    seq: int = Field(sa_type=BigInteger)
    received_at: datetime = Field(sa_type=UtcDateTime, index=True)
    seen: int = Field(sa_type=BigInteger)
    state: str = Field(max_length=16)
    lines: bytes = Field(sa_column=Column(LargeBinary, nullable=False))


class TelemetryCaptureFetch(SQLModel, table=True):
    """A device asked for captured records; its id is the id of the task in the device's document."""

    __tablename__ = "telemetry_capture_fetch"

    id: str = Field(primary_key=True, max_length=32)
    device_id: str = Field(max_length=63, index=True)
    model: str = Field(max_length=63)
    reason: str = Field(max_length=32)
    most: int
    received: int = Field(default=0)
    asked_at: datetime = Field(sa_type=UtcDateTime, index=True)
    asked_by: str = Field(max_length=120)
    until: datetime = Field(sa_type=UtcDateTime)
    done_at: datetime | None = Field(default=None, sa_type=UtcDateTime, nullable=True)


class TelemetryCapture(SQLModel, table=True):
    """One captured record, sealed by its device to a key that the server does not have."""

    __tablename__ = "telemetry_capture"

    device_id: str = Field(primary_key=True, max_length=63)
    record: str = Field(primary_key=True, max_length=32)
    fetch_id: str = Field(max_length=32, index=True)
    model: str = Field(max_length=63)
    sha256: str = Field(max_length=64)
    reason: str = Field(max_length=32)
    label: int
    trace_id: str = Field(max_length=64)
    taken_at: datetime = Field(sa_type=UtcDateTime)
    received_at: datetime = Field(sa_type=UtcDateTime, index=True)
    seen: int = Field(sa_type=BigInteger)
    key_id: str = Field(max_length=16)
    size_bytes: int
    sealed: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
