"""Tables of ground truth. Only `store.py` and `upload_store.py` read and write them."""

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, Column, Float, Index, LargeBinary
from sqlmodel import Field, SQLModel

from edgefleet_server.db.database import UtcDateTime


class TruthBucket(SQLModel, table=True):
    """What one device counted of one bundle, lane and segment for answers of one hour or day.

    labelled, correct: of classes; n, total, sizes, squares: of errors of numbers, in 64ths of `unit`. unmatched, late, repeated: labels
    by the time at which they came, under segment "". detail: MessagePack of cells and business figures (`truth_sums`).
    """

    __tablename__ = "truth_bucket"
    __table_args__ = (
        Index("ix_truth_bucket_model_scale", "model", "scale_s", "at"),
        Index("ix_truth_bucket_scale_at", "scale_s", "at"),
    )

    device_id: str = Field(primary_key=True, max_length=63)
    sha256: str = Field(primary_key=True, max_length=64)
    lane: str = Field(primary_key=True, max_length=16)
    segment: str = Field(primary_key=True, max_length=48)
    scale_s: int = Field(primary_key=True)
    at: datetime = Field(primary_key=True, sa_type=UtcDateTime)
    model: str = Field(max_length=63)
    version: str = Field(max_length=63)
    labelled: int = Field(sa_type=BigInteger)
    correct: int = Field(sa_type=BigInteger)
    n: int = Field(sa_type=BigInteger)
    total: int = Field(sa_type=BigInteger)
    sizes: int = Field(sa_type=BigInteger)
    squares: int = Field(sa_type=BigInteger)
    unit: float = Field(sa_column=Column(Float, nullable=False))
    unmatched: int = Field(sa_type=BigInteger)
    late: int = Field(sa_type=BigInteger)
    repeated: int = Field(sa_type=BigInteger)
    detail: bytes = Field(sa_column=Column(LargeBinary, nullable=False))


class FeedbackUpload(SQLModel, table=True):
    """Labels that somebody sent in bulk. bad: rows that could not be read, each as [line, error], the first of them."""

    __tablename__ = "feedback_upload"

    id: str = Field(primary_key=True, max_length=32)
    model: str = Field(max_length=63)
    rows: int
    refused: int
    bad: list[Any] = Field(sa_column=Column(JSON, nullable=False))
    created_at: datetime = Field(sa_type=UtcDateTime, index=True)
    created_by: str = Field(max_length=120)


class FeedbackPart(SQLModel, table=True):
    """Labels of an upload for one device, as many as one task holds. Its id is the task's. state: waiting, sent, done or failed.

    broadcast: they go to every device of the model, since the rows name none: each matches on one of them at most.
    """

    __tablename__ = "feedback_part"
    __table_args__ = (
        Index("ix_feedback_part_upload", "upload_id"),
        Index("ix_feedback_part_state_device", "state", "device_id"),
    )

    id: str = Field(primary_key=True, max_length=32)
    upload_id: str = Field(max_length=32)
    device_id: str = Field(max_length=63)
    number: int
    rows: int
    broadcast: bool
    items: list[Any] = Field(sa_column=Column(JSON, nullable=False))
    state: str = Field(max_length=16)
    reason: str = Field(max_length=200)
    matched: int
    unmatched: int
    late: int
    repeated: int
    misfit: int
    refused: int


class TruthLabel(SQLModel, table=True):
    """What was right for one answer, as it was sent to the server, for data sets. device_id: "" where none was named."""

    __tablename__ = "truth_label"

    model: str = Field(primary_key=True, max_length=63)
    trace_id: str = Field(primary_key=True, max_length=128)
    device_id: str = Field(primary_key=True, max_length=63)
    label: str = Field(max_length=128)
    received_at: datetime = Field(sa_type=UtcDateTime, index=True)
