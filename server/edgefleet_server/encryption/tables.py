"""The table of the sealing key. Only `store.py` reads and writes it. The key itself is never here."""

from datetime import datetime

from sqlalchemy import Column, Integer
from sqlmodel import Field, SQLModel

from edgefleet_server.db.database import UtcDateTime

STATE_ROW = 1


class SealingState(SQLModel, table=True):
    """Which key seals secrets of this database: one row. cleaned_at: since then nothing of before is in the database's files."""

    __tablename__ = "sealing_state"

    id: int = Field(sa_column=Column(Integer, primary_key=True, autoincrement=False))
    key_id: str = Field(max_length=16)
    since: datetime = Field(sa_type=UtcDateTime)
    cleaned_at: datetime | None = Field(default=None, sa_type=UtcDateTime, nullable=True)
