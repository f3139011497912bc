"""Tables of prediction logs. Only `store.py` reads and writes them."""

from datetime import datetime

from sqlalchemy import JSON, BigInteger, Column, Index, LargeBinary, false, text
from sqlmodel import Field, SQLModel

from edgefleet_server.db.database import UtcDateTime

_WAITS = text("body IS NOT NULL")


class PredictionPart(SQLModel, table=True):
    """One part of a device's log of a model. `body`: `pack_part` while it is in no file; `file`: sha256 of the Parquet file that it is in.

    `hash` in hex, `head` as the device encoded it. A part without either has gone after its days; the newest such stays as the floor
    of its log.
    """

    __tablename__ = "prediction_part"
    __table_args__ = (
        Index("ix_prediction_part_model_received", "model", "received_at"),
        Index("ix_prediction_part_file", "file"),
        Index("ix_prediction_part_waiting", "model", sqlite_where=_WAITS, postgresql_where=_WAITS),
    )

    model: str = Field(primary_key=True, max_length=63)
    device_id: str = Field(primary_key=True, max_length=63)
    log: str = Field(primary_key=True, max_length=32)
    part: int = Field(sa_column=Column(BigInteger, primary_key=True, autoincrement=False))
    rows: int
    lost: int = Field(sa_type=BigInteger)
    hash: str = Field(max_length=64)
    head: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    received_at: datetime = Field(sa_type=UtcDateTime)
    body: bytes | None = Field(default=None, sa_column=Column(LargeBinary, nullable=True))
    file: str = Field(default="", max_length=64)


class PredictionFile(SQLModel, table=True):
    """A Parquet file of parts of one model. Its bytes are the blob `sha256`; `is_whole` once they are there and its parts point to it."""

    __tablename__ = "prediction_file"

    sha256: str = Field(primary_key=True, max_length=64)
    model: str = Field(max_length=63, index=True)
    rows: int
    bytes: int = Field(sa_type=BigInteger)
    parts: int
    received_from: datetime = Field(sa_type=UtcDateTime)
    received_to: datetime = Field(sa_type=UtcDateTime)
    made_at: datetime = Field(sa_type=UtcDateTime)
    is_whole: bool = Field(default=False)


class PredictionErasure(SQLModel, table=True):
    """A subject that was erased, by the hash of one model's log. Rows that come later and are not newer than `until_ms` go too."""

    __tablename__ = "prediction_erasure"

    id: str = Field(primary_key=True, max_length=32)
    model: str = Field(primary_key=True, max_length=63)
    subject: str = Field(max_length=32)
    until_ms: int = Field(sa_type=BigInteger)
    asked_at: datetime = Field(sa_type=UtcDateTime, index=True)
    asked_by: str = Field(max_length=120)
    rows: int = Field(sa_type=BigInteger)
    captures: int
    files: int
    devices: int
    finished_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    overwritten: bool = Field(default=False, sa_column_kwargs={"server_default": false()})
    unwritten: dict[str, str] = Field(
        default_factory=dict, sa_column=Column(JSON, nullable=False, server_default=text("'{}'"))
    )
    """Tables that hold freed rows of the subject, each with the file in which (`Database.table_files`); "" where that is not known."""
    late: int = Field(default=0, sa_type=BigInteger, sa_column_kwargs={"server_default": text("0")})


class ErasedAnswer(SQLModel, table=True):
    """The tombstone of an erased row: a keyed hash of its trace id. What comes later of the same answer is dropped (ADR 0139)."""

    __tablename__ = "erased_answer"

    model: str = Field(primary_key=True, max_length=63)
    mark: str = Field(primary_key=True, max_length=32)
    device_id: str = Field(primary_key=True, max_length=63)
    erasure: str = Field(max_length=32)
    erased_at: datetime = Field(sa_type=UtcDateTime, index=True)


class DataSet(SQLModel, table=True):
    """A data set that somebody wrote elsewhere from captured records (ADR 0139). digest: sha256 of its manifest, as it is now."""

    __tablename__ = "data_set"

    id: str = Field(primary_key=True, max_length=32)
    model: str = Field(max_length=63, index=True)
    digest: str = Field(max_length=64, index=True)
    format: str = Field(max_length=16)
    place: str = Field(max_length=500)
    retraining: str = Field(max_length=32)
    records: int
    made_at: datetime = Field(sa_type=UtcDateTime, index=True)
    made_by: str = Field(max_length=120)


class DataSetRecord(SQLModel, table=True):
    """A record that a data set holds. erasure: the one that asks for its removal, "" for none."""

    __tablename__ = "data_set_record"
    __table_args__ = (Index("ix_data_set_record_device_trace", "device_id", "trace_id"),)

    data_set: str = Field(primary_key=True, max_length=32)
    device_id: str = Field(primary_key=True, max_length=63)
    record: str = Field(primary_key=True, max_length=32)
    trace_id: str = Field(max_length=128)
    erasure: str = Field(max_length=32)


class DataSetPurge(SQLModel, table=True):
    """What an erasure asks of a data set: so many records have to go. done_at: when its holder said that they are gone."""

    __tablename__ = "data_set_purge"

    erasure: str = Field(primary_key=True, max_length=32)
    data_set: str = Field(primary_key=True, max_length=32)
    records: int
    done_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    done_by: str = Field(max_length=120)
