"""Tables of objectives. Only `store.py` reads and writes them."""

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, Column, Text
from sqlmodel import Field, SQLModel

from edgefleet_server.db.database import UtcDateTime


class Objective(SQLModel, table=True):
    """An objective; `document` is its file in normal form."""

    __tablename__ = "objective"

    name: str = Field(primary_key=True, max_length=63)
    model: str = Field(max_length=63, index=True)
    document: dict[str, Any] = Field(sa_column=Column(JSON, nullable=False))
    created_at: datetime = Field(sa_type=UtcDateTime)
    created_by: str = Field(max_length=80)
    changed_at: datetime = Field(sa_type=UtcDateTime)
    changed_by: str = Field(max_length=80)
    measures: str = Field(sa_column=Column(Text, nullable=False))
    """What its samples are of: with another indicator, threshold or place they say nothing of the objective, and are removed."""


class ObjectiveSample(SQLModel, table=True):
    """What was counted of the fleet for an objective in a step of time: of those that no roll-up can say. at: unix seconds."""

    __tablename__ = "objective_sample"
    __table_args__ = ({"sqlite_with_rowid": False},)

    name: str = Field(primary_key=True, max_length=63)
    scale_s: int = Field(primary_key=True)
    at: int = Field(sa_column=Column(BigInteger, primary_key=True, autoincrement=False))
    good: int = Field(sa_type=BigInteger)
    total: int = Field(sa_type=BigInteger)
