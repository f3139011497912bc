"""Tables of contact points. Only `store.py` reads and writes them. What waits to be sent is in the outbox of webhooks."""

from datetime import datetime

from sqlalchemy import Column, Text
from sqlmodel import Field, SQLModel

from edgefleet_server.alerting.contact_points.model import REPEAT_S
from edgefleet_server.db.database import UtcDateTime


class AlertContact(SQLModel, table=True):
    """A contact point; `id` is that of its channel in the outbox."""

    __tablename__ = "alert_contact"

    id: str = Field(primary_key=True, max_length=32)
    name: str = Field(max_length=80)
    service: str = Field(max_length=60)
    severity: str = Field(max_length=16)
    selector: str = Field(sa_column=Column(Text, nullable=False))
    sends_resolved: bool
    repeat_s: int = Field(default=REPEAT_S, sa_column_kwargs={"server_default": str(REPEAT_S)})
    """After how long a critical alert that nobody acknowledged is sent again; 0: never."""
    created_at: datetime = Field(sa_type=UtcDateTime)


class AlertContactSecret(SQLModel, table=True):
    """The URL of a contact point, with its secrets, sealed (ADR 0119): its own table, so that lists never load it."""

    __tablename__ = "alert_contact_secret"

    contact_id: str = Field(primary_key=True, max_length=32)
    url: str = Field(sa_column=Column(Text, nullable=False))
    set_at: datetime | None = Field(default=None, sa_type=UtcDateTime, nullable=True)
    """None: before this was noted."""
