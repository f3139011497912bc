"""Values of desired documents: changes, candidates, deployments and tasks. Pure.

Those that routes return are public: a field is never renamed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Literal

from edgefleet_protocol.desired import Ref, TelemetryRequest
from edgefleet_protocol.digest import Sha256
from edgefleet_protocol.ids import DeviceId, ModelName, ProfileName
from edgefleet_server.fleet.protection.model import Warrant

Mode = Literal["shadow", "split", "measure", "end"]


@dataclass(frozen=True)
class CandidateOrder:
    """How a release runs as a candidate; "end" takes it away again. share_pct and salt are for split."""

    mode: Mode
    share_pct: int = 0
    salt: str = ""


@dataclass(frozen=True)
class Assigned:
    """One device whose desired document names the release now; gen 0 in a dry run."""

    device: DeviceId
    profile: ProfileName
    gen: int
    target: str
    display_name: str = ""


@dataclass(frozen=True)
class Skipped:
    """One device that matched but cannot run the release, why, and what to do."""

    device: DeviceId
    profile: ProfileName
    reason: str
    next: str
    display_name: str = ""


@dataclass(frozen=True)
class Deployment:
    """What a deployment did, or would do when it was a dry run. warning: that devices run a newer version, "" when none does."""

    release: str
    matched: int
    set: Sequence[Assigned]
    skipped: Sequence[Skipped]
    warning: str = ""


@dataclass(frozen=True)
class SignedDesired:
    """A signed desired document as it goes to the broker."""

    device: DeviceId
    gen: int
    envelope: bytes


@dataclass(frozen=True)
class SigningProgress:
    """How far the director's key has come. documents: of devices that are not revoked; waiting: those that an earlier key signed."""

    keyid: str
    documents: int
    waiting: int


@dataclass(frozen=True)
class OfferedBlob:
    """A blob that a device may pull: digest and length in bytes."""

    sha256: Sha256
    length: int


@dataclass(frozen=True)
class ActiveRequest:
    """One model that a device should run."""

    model: ModelName
    active: Ref


@dataclass(frozen=True)
class ModelChange:
    """One change of one device's document: `active` None drops the model, `telemetry` None keeps what it is.

    over: made only where the document still names this digest, since somebody may have written over it meanwhile.
    order: `active` is to run as a candidate instead, or no longer to; made only where that can be.
    warrant: why it may be made on a protected device.
    """

    device: DeviceId
    model: ModelName
    active: Ref | None
    telemetry: TelemetryRequest | None = None
    over: Sha256 | None = None
    order: "CandidateOrder | None" = None
    warrant: Warrant = None


@dataclass(frozen=True)
class WantedRef:
    """What a device's document says of one model: its active bundle (None: the model is not in it), its gen and its candidate."""

    active: Ref | None
    gen: int
    candidate: Ref | None = None


class TaskState(StrEnum):
    """How far a task is. Public: never renamed. The last four are the end."""

    QUEUED = "queued"
    ACCEPTED = "accepted"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    EXPIRED = "expired"
    CANCELLED = "cancelled"


@dataclass(frozen=True)
class TaskOrder:
    """A task to be made: what a device shall do once. ttl: how long it may begin."""

    kind: str
    args: Mapping[str, Any]
    ttl: timedelta = timedelta(hours=1)


@dataclass(frozen=True)
class TaskView:
    """A task and how far it is; `gen` is of the document that carries it, in the answer that made it, else 0."""

    id: str
    device: str
    kind: str
    args: Mapping[str, Any]
    state: TaskState
    code: str
    reason: str
    created_at: datetime
    created_by: str
    until: datetime
    changed_at: datetime
    result_type: str
    result_bytes: int
    result_sha256: str
    gen: int = 0


@dataclass(frozen=True)
class TaskSkipped:
    """A device that was not asked, why, and what to do."""

    device: DeviceId
    reason: str
    next: str
    display_name: str = ""


@dataclass(frozen=True)
class TasksAsked:
    """Who was asked to do a task, or would be when it was a dry run. `tasks`: of those who were, by device."""

    kind: str
    matched: int
    asked: int
    dry_run: bool
    tasks: Mapping[str, str]
    skipped: Sequence[TaskSkipped]
