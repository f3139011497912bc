"""Values of the conversion feature."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from edgefleet_protocol.ids import ReleaseRef
from edgefleet_server.registry.model import JobSpec


class JobState(StrEnum):
    """Stored and public: never renamed."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    REFUSED = "refused"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class ClaimedJob:
    """A job that one worker holds. `attempt` fences: a worker with an older attempt changes nothing any more."""

    id: int
    attempt: int
    worker: str
    spec: JobSpec


@dataclass(frozen=True, slots=True)
class Waiting:
    """A release with jobs that wait; first: the id of the oldest, since: when it was queued."""

    model: str
    version: str
    first: int
    since: datetime


@dataclass(frozen=True, slots=True)
class Work:
    """One job that a worker began; ended: None while it runs."""

    model: str
    version: str
    started: datetime
    ended: datetime | None


@dataclass(frozen=True, slots=True)
class QueuePlace:
    """Where a waiting job stands: 1 is the next one. starts_in_s: None where nothing says how long jobs take."""

    position: int
    starts_in_s: float | None


@dataclass(frozen=True, slots=True)
class SandboxLimits:
    """What one conversion child may use. Memory is address space; times are seconds, sizes bytes."""

    memory_bytes: int
    file_bytes: int
    output_bytes: int
    wall_s: float
    cpu_s: int
    open_files: int = 1024
    processes: int = 1024


@dataclass(frozen=True, slots=True)
class KnownResult:
    """How the newest job with the same content ended: `done` or `refused`, and the digest of its report ("" = none)."""

    ref: ReleaseRef
    state: str
    code: str
    reason: str
    next_step: str
    report: str


@dataclass(slots=True)
class ChildAnswer:
    """What the conversion child said: bundles and refusals by profile."""

    bundles: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    refused: dict[str, Mapping[str, Any]] = field(default_factory=dict)
