"""Tables of roll-ups. Only `store.py` reads and writes them."""

from typing import Any

from sqlalchemy import JSON, BigInteger, Column, LargeBinary, UniqueConstraint
from sqlmodel import Field, SQLModel


class TelemetryCohort(SQLModel, table=True):
    """What devices belong to while they send: a profile, a site and some groups. digest: of the three, since many groups fit no index."""

    __tablename__ = "telemetry_cohort"

    id: int | None = Field(default=None, primary_key=True)
    digest: str = Field(max_length=64, unique=True)
    profile: str
    site: str
    groups: list[Any] = Field(sa_column=Column(JSON, nullable=False))


class TelemetrySeries(SQLModel, table=True):
    """What steps of time are of: one bundle of a model in one lane, of one cohort (0: of all); or the devices of a cohort themselves."""

    __tablename__ = "telemetry_series"
    __table_args__ = (
        UniqueConstraint(
            "kind", "model", "version", "sha256", "lane", "cohort_id", name="uq_telemetry_series_identity"
        ),
    )

    id: int | None = Field(default=None, primary_key=True)
    kind: str = Field(max_length=8)
    model: str = Field(max_length=63)
    version: str = Field(max_length=63)
    sha256: str = Field(max_length=64)
    lane: str = Field(max_length=16)
    cohort_id: int


class TelemetryRollup(SQLModel, table=True):
    """One step of one series. at: unix seconds. sums: MessagePack (`totals`).

    Steps of a minute are stored as blocks of a quarter of an hour: devices send windows of 15 minutes, each of them in another minute.
    """

    __tablename__ = "telemetry_rollup"
    __table_args__ = ({"sqlite_with_rowid": False},)

    scale_s: int = Field(primary_key=True)
    series_id: int = Field(primary_key=True)
    at: int = Field(sa_column=Column(BigInteger, primary_key=True, autoincrement=False))
    sums: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
