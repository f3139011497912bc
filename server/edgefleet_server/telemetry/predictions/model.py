"""Values of prediction logs. Pure."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Literal

MAX_RANGES: Final = 20
"""Ranges of missing numbers that one answer lists of a log and a reason; the counts are of all."""


@dataclass(frozen=True)
class PredictionLogView:
    """The prediction log of a model: what is kept, and how much there is. ratio: share of the answers, 0 = nothing any more."""

    model: str
    state: Literal["complete", "sampled", "off"]
    ratio: float
    inputs: bool
    keep_days: int
    is_sealed: bool
    set_at: datetime
    set_by: str
    devices: int
    rows: int
    lost: int
    bytes: int
    waiting: int
    newest_at: datetime | None


@dataclass(frozen=True)
class PredictionLogFile:
    """A Parquet file. received_from, received_to: when the parts in it came."""

    id: str
    model: str
    rows: int
    bytes: int
    parts: int
    received_from: datetime
    received_to: datetime


@dataclass(frozen=True)
class MissingNumbers:
    """Numbers without a row. reason: lost, full, stopped (at most so many), sampled, erased, or expired (after their days)."""

    reason: str
    n: int
    ranges: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class CheckedPredictionLog:
    """What the parts of one device's log prove. first, last: numbers that are accounted for. head: hash of the newest part.

    newest: number of the newest part. written: parts that the device said last it has closed, 0 = it said nothing of this log.
    ratio: the least share that the device says it followed.
    """

    device: str
    log: str
    parts: int
    first: int
    last: int
    rows: int
    head: str
    newest: int
    written: int
    ratio: float
    missing: list[MissingNumbers]
    problems: list[str]


@dataclass(frozen=True)
class PredictionLogVerification:
    """Whether a model's log is whole. is_whole: no number without a reason, no part missing or changed."""

    model: str
    is_whole: bool
    checked_at: datetime
    rows: int
    erased: int
    lost: int
    logs: list[CheckedPredictionLog]


@dataclass(frozen=True)
class WrittenDataSetView:
    """A data set that somebody wrote elsewhere from captured records. digest: sha256 of its `dataset.json`, as it is now.

    to_remove: records of erased subjects in it; purged_at: when its holder said last that such are gone. state: says both.
    """

    id: str
    model: str
    digest: str
    format: str
    place: str
    retraining: str
    records: int
    made_at: datetime
    made_by: str
    state: Literal["there", "purged", "holds_erased"] = "there"
    to_remove: int = 0
    purged_at: datetime | None = None


@dataclass(frozen=True)
class WrittenRecordView:
    """A record that a data set holds."""

    device: str
    record: str


@dataclass(frozen=True)
class ErasedDataSet:
    """A data set that held records of an erased subject. purged_at: when its holder said that they are gone, None before."""

    id: str
    model: str
    place: str
    made_by: str
    records: int
    purged_at: datetime | None


@dataclass(frozen=True)
class Erasure:
    """The receipt of an erasure: what is gone. rows: of the log; captures: records of these answers; devices: that sent parts of the logs.

    finished_at: None while it goes on, and where it failed half-way: then it is asked again. overwritten: whether the database has
    overwritten what it freed. late: what came later of the subject and was dropped. remains: what the database may still hold, in words.
    data_sets: those that hold records of the subject outside of the server. backups_until: until when backups from before hold it, by
    the setting `backup_keep_days`; None where that does not say it.
    """

    id: str
    asked_at: datetime
    asked_by: str
    models: list[str]
    rows: int
    captures: int
    files: int
    devices: int
    finished_at: datetime | None
    overwritten: bool = False
    data_sets: list[ErasedDataSet] = field(default_factory=list)
    backups_until: datetime | None = None
    late: int = 0
    remains: list[str] = field(default_factory=list)
