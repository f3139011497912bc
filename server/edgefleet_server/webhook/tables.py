"""Tables of webhooks. Only `store.py` reads and writes them.

`webhook_delivery` is the outbox: a row is written in the transaction of its event. A webhook's row has the claim of the process that
sends to it now: `lease_owner` until `lease_until`, and `fence`, which every claim raises.
"""

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, Column, Index, Integer, Text
from sqlmodel import Field, SQLModel

from edgefleet_server.db.database import UtcDateTime


def _number() -> Column[int]:
    return Column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True)


class Webhook(SQLModel, table=True):
    """Where events are sent. `failures`: in a row, of the receiver as a whole; nothing is sent before `not_before`."""

    __tablename__ = "webhook"

    id: str = Field(primary_key=True, max_length=32)
    name: str = Field(max_length=80)
    url: str = Field(sa_column=Column(Text, nullable=False))
    types: list[str] = Field(sa_column=Column(JSON, nullable=False))
    is_enabled: bool = Field(default=True)
    disabled_reason: str = Field(default="", sa_column=Column(Text, nullable=False))
    created_at: datetime = Field(sa_type=UtcDateTime)
    created_by: str = Field(max_length=80)
    failures: int = Field(default=0)
    not_before: datetime | None = Field(default=None, sa_type=UtcDateTime, nullable=True)
    lease_owner: str = Field(default="", max_length=80)
    lease_until: datetime | None = Field(default=None, sa_type=UtcDateTime, nullable=True)
    fence: int = Field(default=0, sa_type=BigInteger)
    transport: str = Field(default="", max_length=16, sa_column_kwargs={"server_default": ""})
    """How messages go there. "": signed, by HTTP. Else it is the channel of another feature, and no webhook that is listed."""


class WebhookSecret(SQLModel, table=True):
    """A key that signs, sealed (ADR 0119). Its own table, so that lists of webhooks never load it."""

    __tablename__ = "webhook_secret"

    id: int | None = Field(default=None, sa_column=_number())
    webhook_id: str = Field(max_length=32, index=True)
    secret: str = Field(sa_column=Column(Text, nullable=False))
    created_at: datetime = Field(sa_type=UtcDateTime)
    expires_at: datetime | None = Field(default=None, sa_type=UtcDateTime, nullable=True)


class WebhookDelivery(SQLModel, table=True):
    """One event for one webhook. `order_key`: within it deliveries keep their order. `body`: of a ping, which is no event."""

    __tablename__ = "webhook_delivery"
    __table_args__ = (
        Index("ix_webhook_delivery_order", "webhook_id", "state", "id"),
        Index("ix_webhook_delivery_due", "state", "next_at"),
    )

    id: int | None = Field(default=None, sa_column=_number())
    webhook_id: str = Field(max_length=32)
    message_id: str = Field(max_length=40)
    type: str = Field(max_length=80)
    order_key: str = Field(max_length=80)
    event_id: int | None = Field(default=None, sa_type=BigInteger, nullable=True)
    body: dict[str, Any] | None = Field(default=None, sa_column=Column(JSON, nullable=True))
    state: str = Field(max_length=16)
    created_at: datetime = Field(sa_type=UtcDateTime)
    give_up_at: datetime = Field(sa_type=UtcDateTime)
    next_at: datetime | None = Field(default=None, sa_type=UtcDateTime, nullable=True)
    done_at: datetime | None = Field(default=None, sa_type=UtcDateTime, nullable=True)
    attempts: int = Field(default=0)
    status: int | None = Field(default=None, nullable=True)
    error: str = Field(default="", sa_column=Column(Text, nullable=False))


class WebhookAttempt(SQLModel, table=True):
    """One try of a delivery: its log."""

    __tablename__ = "webhook_attempt"

    id: int | None = Field(default=None, sa_column=_number())
    delivery_id: int = Field(sa_type=BigInteger, index=True)
    at: datetime = Field(sa_type=UtcDateTime)
    took_ms: int
    status: int | None = Field(default=None, nullable=True)
    error: str = Field(default="", sa_column=Column(Text, nullable=False))
    answer: str = Field(default="", sa_column=Column(Text, nullable=False))
