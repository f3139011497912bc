"""Values of readmission: the terms of the fleet, a request of a device, and what is said to it. Public where routes return them. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum


class ReadmissionState(StrEnum):
    """What became of a device that asked to come back. Public and stored: never renamed."""

    PENDING = "pending"
    APPROVED = "approved"
    """A person let it in; it has not asked again yet."""
    REFUSED = "refused"
    READMITTED = "readmitted"
    """It has a certificate again."""


@dataclass(frozen=True, slots=True)
class ReadmissionTerms:
    """What the fleet allows without a person: how long a certificate may be over, and how many devices come back within a day."""

    within: timedelta
    per_day: int


@dataclass(frozen=True, slots=True)
class ReadmissionCase:
    """A device that asks. ended_at: when its certificate ended; by_rule: devices that the rule let in within the last day.

    state, decided_at, decided_by, reason: of what a person said to this request; state None: it asks for the first time.
    """

    ended_at: datetime
    is_suspect: bool
    by_rule: int
    state: ReadmissionState | None = None
    decided_at: datetime | None = None
    decided_by: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ReadmissionVerdict:
    """What is said to the device. by: who let it in, "" = the rule; why: it waits or was refused."""

    state: ReadmissionState
    by: str = ""
    why: str = ""


@dataclass(frozen=True, slots=True)
class ReadmissionView:
    """A device that asked to come back. why: what it waits for, or why it was refused. readmitted_at: when it last came back."""

    device: str
    state: ReadmissionState
    ended_at: datetime
    asked_at: datetime
    heard_at: datetime
    why: str
    decided_at: datetime | None
    decided_by: str
    readmitted_at: datetime | None


@dataclass(frozen=True, slots=True)
class ReadmissionSkipped:
    """A device that could not be decided about, why, and what to do."""

    device: str
    reason: str
    next: str


@dataclass(frozen=True, slots=True)
class ReadmissionDecisions:
    """What became of the devices that were meant."""

    done: Sequence[ReadmissionView]
    skipped: Sequence[ReadmissionSkipped]
