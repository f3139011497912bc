"""Tables of model cards. Only `store.py` reads and writes them."""

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, Column
from sqlmodel import Field, SQLModel

from edgefleet_server.db.database import UtcDateTime


class ModelCardRow(SQLModel, table=True):
    """What people state of a release. source_sha256: that of the release it was written for; another one has no statement yet."""

    __tablename__ = "model_cards"

    model: str = Field(primary_key=True, max_length=63)
    version: str = Field(primary_key=True, max_length=63)
    source_sha256: str = Field(max_length=64)
    stated: dict[str, Any] = Field(sa_column=Column(JSON, nullable=False))
    changed_at: datetime = Field(sa_type=UtcDateTime)
    changed_by: str = Field(max_length=80)
