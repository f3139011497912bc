"""The table of release policies. Only `store.py` reads and writes it."""

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, Column
from sqlmodel import Field, SQLModel

from edgefleet_server.db.database import UtcDateTime


class ReleasePolicyRow(SQLModel, table=True):
    """A policy. models, require: lists of texts; since: releases made before are left alone; change: what weakens it soon."""

    __tablename__ = "release_policy"

    name: str = Field(primary_key=True, max_length=63)
    models: list[Any] = Field(sa_column=Column(JSON, nullable=False))
    require: list[Any] = Field(sa_column=Column(JSON, nullable=False))
    since: datetime = Field(sa_type=UtcDateTime)
    created_at: datetime = Field(sa_type=UtcDateTime)
    created_by: str = Field(max_length=80)
    changed_at: datetime = Field(sa_type=UtcDateTime)
    changed_by: str = Field(max_length=80)
    change: dict[str, Any] | None = Field(default=None, sa_column=Column(JSON(none_as_null=True), nullable=True))
