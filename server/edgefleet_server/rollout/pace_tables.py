"""Tables of a rollout's pace. Only `pace_store.py` reads and writes them."""

from datetime import datetime

from sqlalchemy import BigInteger
from sqlmodel import Field, SQLModel

from edgefleet_server.db import UtcDateTime


class RolloutMinute(SQLModel, table=True):
    """The running minute of one stage with a rate: see `ramp`."""

    __tablename__ = "rollout_minute"

    rollout_id: str = Field(primary_key=True, max_length=32)
    stage: int = Field(primary_key=True)
    began_at: datetime = Field(sa_type=UtcDateTime)
    per_min: int
    offered: int = Field(default=0)
    failed: int = Field(default=0)


class DownloadLease(SQLModel, table=True):
    """One download that may be under way, `length` bytes long: see `leases`."""

    __tablename__ = "download_lease"

    rollout_id: str = Field(primary_key=True, max_length=32)
    device_id: str = Field(primary_key=True, max_length=63)
    site: str = Field(default="", max_length=127, index=True)
    length: int = Field(sa_type=BigInteger)
    taken_at: datetime = Field(sa_type=UtcDateTime)


class DownloadLine(SQLModel, table=True):
    """The one row (id 1) that every tick locks before it counts leases. booked_until: see `leases`, rule 5."""

    __tablename__ = "download_line"

    id: int = Field(primary_key=True)
    booked_until: datetime | None = Field(default=None, sa_type=UtcDateTime, nullable=True)
