"""Tables of retraining. Only `store.py` reads and writes them."""

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, Column, Index, Text
from sqlmodel import Field, SQLModel

from edgefleet_server.db.database import UtcDateTime


class RetrainingTrigger(SQLModel, table=True):
    """A trigger. terms: all that it says, in one document. maker: the person who made or changed it last, in whose name it acts."""

    __tablename__ = "retraining_trigger"

    name: str = Field(primary_key=True, max_length=63)
    model: str = Field(max_length=63, index=True)
    terms: dict[str, Any] = Field(sa_column=Column(JSON, nullable=False))
    enabled: bool
    maker: str = Field(max_length=16)
    makers: list[str] = Field(sa_column=Column(JSON, nullable=False))
    """Everybody who made or changed it: none of them may approve what it starts."""
    held: str = Field(sa_column=Column(Text, nullable=False))
    """What held it when it was last looked at."""
    after: datetime = Field(sa_type=UtcDateTime)
    """Of a schedule: times up to this one are over."""
    created_at: datetime = Field(sa_type=UtcDateTime)
    created_by: str = Field(max_length=80)
    changed_at: datetime = Field(sa_type=UtcDateTime)
    changed_by: str = Field(max_length=80)


class RetrainingSecret(SQLModel, table=True):
    """The secret of a trigger's launcher, sealed (ADR 0119). Its own table, so that lists of triggers never load it."""

    __tablename__ = "retraining_secret"

    trigger: str = Field(primary_key=True, max_length=63)
    secret: str = Field(sa_column=Column(Text, nullable=False))
    set_at: datetime = Field(sa_type=UtcDateTime)


class RetrainingRun(SQLModel, table=True):
    """A retraining. Ended ones stay: they are evidence. plan: what the trigger said when it began."""

    __tablename__ = "retraining_run"
    __table_args__ = (
        Index("ix_retraining_run_trigger", "trigger", "created_at"),
        Index("ix_retraining_run_model", "model", "state"),
        Index("ix_retraining_run_state", "state"),
        Index("ix_retraining_run_drift", "drift_state"),
    )

    id: str = Field(primary_key=True, max_length=32)
    trigger: str = Field(max_length=63)
    model: str = Field(max_length=63)
    state: str = Field(max_length=20)
    says: str = Field(sa_column=Column(Text, nullable=False))
    is_own: bool
    """The trigger started it by itself."""
    cause: dict[str, Any] = Field(sa_column=Column(JSON, nullable=False))
    plan: dict[str, Any] = Field(sa_column=Column(JSON, nullable=False))
    parent: str = Field(max_length=127)
    fetches: list[dict[str, Any]] = Field(sa_column=Column(JSON, nullable=False))
    """The devices that were asked for records, each with its fetch."""
    collected: dict[str, Any] = Field(sa_column=Column(JSON, nullable=False))
    data_set: dict[str, Any] | None = Field(default=None, sa_column=Column(JSON(none_as_null=True), nullable=True))
    launcher: str = Field(max_length=16)
    lease_sha256: str = Field(default="", max_length=64)
    lease_until: datetime | None = Field(default=None, sa_type=UtcDateTime, nullable=True)
    holder: str = Field(default="", max_length=120)
    attempts: int = Field(default=0)
    given_back: int = Field(default=0, sa_column_kwargs={"server_default": "0"})
    """How often a runner gave it back: those are none of its attempts."""
    progress: str = Field(default="", sa_column=Column(Text, nullable=False))
    release: str = Field(default="", max_length=127)
    rollout: str = Field(default="", max_length=32)
    error: dict[str, Any] | None = Field(default=None, sa_column=Column(JSON(none_as_null=True), nullable=True))
    drift_state: str = Field(default="", max_length=16)
    drift_words: str = Field(default="", sa_column=Column(Text, nullable=False))
    drift_at: datetime | None = Field(default=None, sa_type=UtcDateTime, nullable=True)
    maker: str = Field(max_length=16)
    maker_name: str = Field(max_length=80)
    makers: list[str] = Field(sa_column=Column(JSON, nullable=False))
    created_at: datetime = Field(sa_type=UtcDateTime)
    created_by: str = Field(max_length=80)
    answered_by: str = Field(default="", max_length=80)
    answered_at: datetime | None = Field(default=None, sa_type=UtcDateTime, nullable=True)
    state_since: datetime = Field(sa_type=UtcDateTime)
    until: datetime | None = Field(default=None, sa_type=UtcDateTime, nullable=True)
    next_at: datetime | None = Field(default=None, sa_type=UtcDateTime, nullable=True)
    """When a launch that failed is tried again, or from when a runner may take one that was given back."""
    began_at: datetime | None = Field(default=None, sa_type=UtcDateTime, nullable=True)
    ended_at: datetime | None = Field(default=None, sa_type=UtcDateTime, nullable=True)
