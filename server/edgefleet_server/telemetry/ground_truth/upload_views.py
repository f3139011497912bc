"""What the API says of labels that were sent in bulk. Public. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True)
class BadRow:
    """A row that could not be read. line: of the file, or the place of the item, from 1."""

    line: int
    error: str


@dataclass(frozen=True)
class PartFailure:
    """A device that did not take its labels."""

    device: str
    reason: str
    rows: int


@dataclass(frozen=True)
class FeedbackUploadView:
    """Labels that were sent in bulk. state: open (devices are still looking), done or partly (some devices did not take theirs).

    rows: that were sent; bad: that could not be read; parts: tasks of devices; over: of those, that have ended. matched, unmatched, late
    (part of unmatched), repeated, misfit, refused: how labels fared on their devices. pending: on their way; failed: devices did not take.
    """

    id: str
    model: str
    state: str
    rows: int
    bad: int
    parts: int
    over: int
    matched: int
    unmatched: int
    late: int
    repeated: int
    misfit: int
    refused: int
    pending: int
    failed: int
    created_at: datetime
    created_by: str
    bad_rows: Sequence[BadRow]
    failures: Sequence[PartFailure]
