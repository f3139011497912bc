"""Table of conversion jobs. Only `store.py` reads and writes it."""

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, Column, Index, Text, UniqueConstraint, false
from sqlmodel import Field, SQLModel

from edgefleet_server.db.database import UtcDateTime


class JobRow(SQLModel, table=True):
    """One conversion: a release for a profile. A worker holds a running job until `lease_until`.

    key: digest of all that decides its result, "" where nothing tells; report: sha256 of its report, itself a blob.
    ends_search: somebody asked its search to end with the best found.
    """

    __tablename__ = "conversion_jobs"
    __table_args__ = (UniqueConstraint("model", "version", "profile"), Index("ix_conversion_jobs_state", "state", "id"))

    id: int | None = Field(default=None, primary_key=True)
    model: str = Field(max_length=63)
    version: str = Field(max_length=63)
    profile: str = Field(max_length=63)
    spec: dict[str, Any] = Field(sa_column=Column(JSON, nullable=False))
    state: str = Field(max_length=16)
    attempt: int = 0
    worker: str = Field(default="", max_length=80)
    lease_until: datetime | None = Field(default=None, sa_type=UtcDateTime)
    stage: str = Field(default="", max_length=40)
    message: str = Field(default="", sa_column=Column(Text, nullable=False))
    pct: float = 0.0
    code: str = Field(default="", max_length=80)
    reason: str = Field(default="", sa_column=Column(Text, nullable=False))
    next_step: str = Field(default="", sa_column=Column(Text, nullable=False))
    key: str = Field(default="", max_length=64, index=True)
    report: str = Field(default="", max_length=64)
    ends_search: bool = Field(default=False, sa_column_kwargs={"server_default": false()})
    queued_at: datetime = Field(sa_type=UtcDateTime)
    started_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    finished_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
