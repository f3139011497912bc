"""Tables of costs. Only `store.py` reads and writes them."""

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, Column
from sqlmodel import Field, SQLModel

from edgefleet_server.db.database import UtcDateTime


class CostGroupSet(SQLModel, table=True):
    """Groups that a device was in at the same time. digest: of their names, since many fit no index."""

    __tablename__ = "cost_group_set"

    id: int | None = Field(default=None, primary_key=True)
    digest: str = Field(max_length=64, unique=True)
    groups: list[Any] = Field(sa_column=Column(JSON, nullable=False))


class CostTraffic(SQLModel, table=True):
    """Bytes of an hour or day. at: unix seconds. bundle: sha256 of what went down, else "". n: messages, of telemetry windows.

    groups_id: a `CostGroupSet`. A device counts in one set alone, so that sums over sets count each byte once.
    """

    __tablename__ = "cost_traffic"
    __table_args__ = ({"sqlite_with_rowid": False},)

    scale_s: int = Field(primary_key=True)
    at: int = Field(sa_column=Column(BigInteger, primary_key=True, autoincrement=False))
    model: str = Field(primary_key=True, max_length=63)
    kind: str = Field(primary_key=True, max_length=16)
    bundle: str = Field(primary_key=True, max_length=64)
    groups_id: int = Field(primary_key=True)
    bytes: int = Field(sa_type=BigInteger)
    n: int = Field(sa_type=BigInteger)


class CostPrices(SQLModel, table=True):
    """The prices that an operator set; one row, id 1. document: the file in normal form."""

    __tablename__ = "cost_prices"

    id: int = Field(primary_key=True)
    document: dict[str, Any] = Field(sa_column=Column(JSON, nullable=False))
    set_at: datetime = Field(sa_type=UtcDateTime)
    set_by: str = Field(max_length=120)
