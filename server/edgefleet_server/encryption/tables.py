"""The tables of the sealing key, which itself is never here, and of the fleet key. Only `store.py` reads and writes them."""

from datetime import datetime

from sqlalchemy import Column, Integer, Text
from sqlmodel import Field, SQLModel

from edgefleet_server.db.database import UtcDateTime

STATE_ROW = 1
FLEET_KEY_ROW = 1


class SealingState(SQLModel, table=True):
    """Which key seals secrets of this database: one row. cleaned_at: since then nothing of before is in the database's files."""

    __tablename__ = "sealing_state"

    id: int = Field(sa_column=Column(Integer, primary_key=True, autoincrement=False))
    key_id: str = Field(max_length=16)
    since: datetime = Field(sa_type=UtcDateTime)
    cleaned_at: datetime | None = Field(default=None, sa_type=UtcDateTime, nullable=True)


class FleetKeyRow(SQLModel, table=True):
    """The pair that keys of sealed bundles are sealed to; one row. public, secret: X25519, hex; the secret is sealed once more."""

    __tablename__ = "fleet_key"

    id: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    public: str = Field(max_length=64)
    secret: str = Field(sa_column=Column(Text, nullable=False))
    created_at: datetime = Field(sa_type=UtcDateTime)
