"""Table of events. Only `store.py` reads and writes it."""

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, Column, Index, UniqueConstraint
from sqlmodel import Field, SQLModel

from edgefleet_server.db.database import UtcDateTime


class FleetEvent(SQLModel, table=True):
    """Something that happened. From a device: (device, boot, seq) is unique. From the server: boot and seq are null."""

    __tablename__ = "fleet_event"
    __table_args__ = (
        UniqueConstraint("device_id", "boot_id", "seq"),
        Index("ix_fleet_event_kind_received", "kind", "received_at"),
    )

    id: int | None = Field(default=None, primary_key=True)
    device_id: str = Field(max_length=63, index=True)
    boot_id: str | None = Field(default=None, max_length=64)
    seq: int | None = Field(default=None, sa_type=BigInteger, nullable=True)
    at: datetime = Field(sa_type=UtcDateTime)
    received_at: datetime = Field(sa_type=UtcDateTime, index=True)
    kind: str = Field(max_length=32)
    model: str = Field(default="", max_length=63)
    rollout_id: str | None = Field(default=None, max_length=32, index=True)
    detail: dict[str, Any] = Field(sa_column=Column(JSON, nullable=False))
