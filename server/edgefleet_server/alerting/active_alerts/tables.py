"""Tables of alerts, their rules, and what suppresses them. Only `store.py` reads and writes them."""

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, Column, Index, Integer, Text, text
from sqlmodel import Field, SQLModel

from edgefleet_server.db.database import UtcDateTime

_OPEN = text("state <> 'resolved'")


class Alert(SQLModel, table=True):
    """An alert that is pending or fires, or that ended within the time that ended ones are kept."""

    __tablename__ = "alert"
    __table_args__ = (
        Index("ux_alert_open", "rule", "subject", unique=True, sqlite_where=_OPEN, postgresql_where=_OPEN),
        Index("ix_alert_state", "state", "id"),
    )

    id: int | None = Field(
        default=None, sa_column=Column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True)
    )
    rule: str = Field(max_length=40)
    subject: str = Field(max_length=200)
    shown: str = Field(max_length=200)
    state: str = Field(max_length=16)
    severity: str = Field(max_length=16)
    summary: str = Field(sa_column=Column(Text, nullable=False))
    value: float
    threshold: float
    group: str = Field(max_length=200)
    since: datetime = Field(sa_type=UtcDateTime)
    seen_at: datetime = Field(sa_type=UtcDateTime)
    fired_at: datetime | None = Field(default=None, sa_type=UtcDateTime, nullable=True)
    clear_since: datetime | None = Field(default=None, sa_type=UtcDateTime, nullable=True)
    resolved_at: datetime | None = Field(default=None, sa_type=UtcDateTime, nullable=True, index=True)
    suppressed_by: str = Field(max_length=250)
    acked_at: datetime | None = Field(default=None, sa_type=UtcDateTime, nullable=True)
    acked_by: str = Field(max_length=80)
    ack_comment: str = Field(sa_column=Column(Text, nullable=False))
    link: str = Field(max_length=250)
    evidence: list[str] = Field(sa_column=Column(JSON, nullable=False))
    devices: list[str] = Field(sa_column=Column(JSON, nullable=False))
    labels: dict[str, Any] = Field(sa_column=Column(JSON, nullable=False))


class AlertRule(SQLModel, table=True):
    """What a person changed of a rule; null: as it comes."""

    __tablename__ = "alert_rule"

    rule: str = Field(primary_key=True, max_length=40)
    is_enabled: bool | None = Field(default=None, nullable=True)
    threshold: float | None = Field(default=None, nullable=True)
    for_s: int | None = Field(default=None, nullable=True)
    severity: str | None = Field(default=None, max_length=16, nullable=True)
    selector: str | None = Field(default=None, sa_column=Column(Text, nullable=True))
    changed_at: datetime = Field(sa_type=UtcDateTime)
    changed_by: str = Field(max_length=80)


class AlertSilence(SQLModel, table=True):
    """A silence; it is kept for a while when it is over."""

    __tablename__ = "alert_silence"

    id: str = Field(primary_key=True, max_length=32)
    matchers: list[str] = Field(sa_column=Column(JSON, nullable=False))
    selector: str | None = Field(default=None, sa_column=Column(Text, nullable=True))
    comment: str = Field(sa_column=Column(Text, nullable=False))
    created_at: datetime = Field(sa_type=UtcDateTime)
    created_by: str = Field(max_length=80)
    until: datetime = Field(sa_type=UtcDateTime, index=True)


class AlertWindow(SQLModel, table=True):
    """A maintenance window."""

    __tablename__ = "alert_window"

    id: str = Field(primary_key=True, max_length=32)
    name: str = Field(max_length=80)
    cron: str = Field(max_length=120)
    duration_s: int
    tz: str = Field(max_length=64)
    selector: str = Field(sa_column=Column(Text, nullable=False))
    created_at: datetime = Field(sa_type=UtcDateTime)
    created_by: str = Field(max_length=80)


class AlertGroup(SQLModel, table=True):
    """What was sent of a group of alerts. sent: ids of alerts that messages named as firing and not yet as ended."""

    __tablename__ = "alert_group"

    rule: str = Field(primary_key=True, max_length=40)
    group: str = Field(primary_key=True, max_length=200)
    due_at: datetime | None = Field(default=None, sa_type=UtcDateTime, nullable=True)
    sent_at: datetime | None = Field(default=None, sa_type=UtcDateTime, nullable=True)
    sent: list[int] = Field(sa_column=Column(JSON, nullable=False))
    reminded: dict[str, str] = Field(default_factory=dict, sa_column=Column(JSON, nullable=False, server_default="{}"))
    """When a contact point got the group again because nobody acknowledged it, by contact point."""


class AlertDriftVerdict(SQLModel, table=True):
    """How the server judged the drift of a model last. signals: those that drift, each as `DriftedSignal`."""

    __tablename__ = "alert_drift_verdict"

    model: str = Field(primary_key=True, max_length=63)
    version: str = Field(max_length=63)
    judged_at: datetime = Field(sa_type=UtcDateTime)
    signals: list[dict[str, Any]] = Field(sa_column=Column(JSON, nullable=False))


class AlertModelRecord(SQLModel, table=True):
    """What is known of the latency and the failures of a model on a device: its newest windows, and its usual p95."""

    __tablename__ = "alert_model_record"

    device_id: str = Field(primary_key=True, max_length=63)
    model: str = Field(primary_key=True, max_length=63)
    version: str = Field(max_length=63)
    newest_at: datetime = Field(sa_type=UtcDateTime, index=True)
    looks: list[list[Any]] = Field(sa_column=Column(JSON, nullable=False))
    usual_p95_ms: float | None = Field(default=None, nullable=True)
    usual_windows: int


class AlertEvaluation(SQLModel, table=True):
    """The last evaluation of the rules, one row, id 1: of several processes one claims the next. window_id: the last window it read."""

    __tablename__ = "alert_evaluation"

    id: int = Field(primary_key=True)
    at: datetime = Field(sa_type=UtcDateTime)
    fence: int = Field(sa_type=BigInteger)
    window_id: int | None = Field(default=None, sa_type=BigInteger, nullable=True)
