"""Tables of alert receivers. Only `store.py` reads and writes them."""

from datetime import datetime

from sqlalchemy import JSON, Column, Text
from sqlmodel import Field, SQLModel

from edgefleet_server.db.database import UtcDateTime


class AlertReceiver(SQLModel, table=True):
    """Who may send alerts, and what they do. The token itself is never stored, only the SHA-256 of its secret."""

    __tablename__ = "alert_receiver"

    id: str = Field(primary_key=True, max_length=16)
    name: str = Field(max_length=80)
    secret_sha256: str = Field(max_length=64)
    action: str = Field(max_length=16)
    matchers: list[str] = Field(sa_column=Column(JSON, nullable=False))
    model: str = Field(default="", max_length=63)
    created_at: datetime = Field(sa_type=UtcDateTime)
    created_by: str = Field(max_length=80)
    last_used_at: datetime | None = Field(default=None, sa_type=UtcDateTime, nullable=True)


class AlertSeen(SQLModel, table=True):
    """An alert that acted, or tried to, on a rollout: once for each time that it began to fire."""

    __tablename__ = "alert_seen"

    receiver_id: str = Field(primary_key=True, max_length=16)
    group_sha256: str = Field(primary_key=True, max_length=64)
    fingerprint: str = Field(primary_key=True, max_length=64)
    starts_at: str = Field(primary_key=True, max_length=64)
    rollout_id: str = Field(primary_key=True, max_length=32)
    at: datetime = Field(sa_type=UtcDateTime, index=True)
    outcome: str = Field(max_length=16)
    reason: str = Field(sa_column=Column(Text, nullable=False))
