"""Tables of drift. Only `store.py` reads and writes them."""

from datetime import datetime

from sqlalchemy import BigInteger, Column, Index, LargeBinary
from sqlmodel import Field, SQLModel

from edgefleet_server.db.database import UtcDateTime


class DriftBucket(SQLModel, table=True):
    """What one device counted of one bundle in one step of a scale. `signals`: `drift.histogram.pack`, by the bins of `basis` (hex)."""

    __tablename__ = "drift_bucket"
    __table_args__ = (
        Index("ix_drift_bucket_sha256_scale", "sha256", "scale_s", "at"),
        Index("ix_drift_bucket_scale_at", "scale_s", "at"),
    )

    device_id: str = Field(primary_key=True, max_length=63)
    sha256: str = Field(primary_key=True, max_length=64)
    basis: str = Field(primary_key=True, max_length=16)
    scale_s: int = Field(primary_key=True)
    at: datetime = Field(primary_key=True, sa_type=UtcDateTime)
    covered_s: int = Field(sa_type=BigInteger)
    """How many seconds the windows in it covered."""
    signals: bytes = Field(sa_column=Column(LargeBinary, nullable=False))


class DriftBaseline(SQLModel, table=True):
    """What devices counted of a release in a period that a person chose as what is normal. `signals`: as in `DriftBucket`."""

    __tablename__ = "drift_baseline"

    model: str = Field(primary_key=True, max_length=63)
    version: str = Field(primary_key=True, max_length=63)
    basis: str = Field(primary_key=True, max_length=16)
    since: datetime = Field(sa_type=UtcDateTime)
    until: datetime = Field(sa_type=UtcDateTime)
    devices: int
    signals: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    set_at: datetime = Field(sa_type=UtcDateTime)
    set_by: str = Field(max_length=120)
