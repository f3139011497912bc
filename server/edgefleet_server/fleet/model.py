"""Values of the fleet feature. Those that routes return are public: a field is never renamed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import msgspec

from edgefleet_protocol.desired import Ref, TelemetryWish
from edgefleet_protocol.digest import Sha256
from edgefleet_protocol.ids import DeviceId, ModelName, ProfileName
from edgefleet_protocol.messages import ErrorClass, Phase

if TYPE_CHECKING:
    from edgefleet_server.fleet.beside import Beside


class DeviceStatus(StrEnum):
    """Whether a device can be reached, as far as we know. Public: never renamed."""

    ONLINE = "online"
    OFFLINE = "offline"
    UNKNOWN = "unknown"
    REVOKED = "revoked"


@dataclass(frozen=True)
class ClaimOrder:
    """Claim tokens to make: how many, how often and how long each may be used, what its devices get."""

    count: int = 1
    uses: int = 1
    ttl: timedelta = timedelta(days=1)
    labels: Mapping[str, str] = field(default_factory=dict)
    profile: ProfileName | None = None
    name_prefix: str | None = None
    approval: bool = False


@dataclass(frozen=True)
class NewClaim:
    """A claim token just made; `token` is in this answer and nowhere else. approval: its devices wait for an operator."""

    id: str
    token: str
    expires_at: datetime
    approval: bool = False


@dataclass(frozen=True)
class ClaimView:
    """A claim token without its secret, the devices it enrolled, and how many keys wait for an operator's word."""

    id: str
    uses: int
    uses_left: int
    expires_at: datetime
    created_at: datetime
    created_by: str
    profile: str | None
    labels: Mapping[str, str]
    devices: Sequence[str]
    approval: bool
    pending: int


@dataclass(frozen=True)
class BrokerAddress:
    """Where devices find the broker; `mqtt` is "5" or "3.1.1"."""

    host: str
    port: int
    mqtt: str


@dataclass(frozen=True)
class DeviceIdentity:
    """What the device routes know of the device that calls: its id, its profile and its public key (PEM)."""

    id: DeviceId
    profile: ProfileName
    public_key: str


@dataclass(frozen=True)
class Enrolment:
    """The answer to an enrolment or a renewal: the device's identity and what it must trust. `nonce` is the request's."""

    device_id: DeviceId
    tenant: str
    cert: str
    ca: str
    root_chain: Sequence[Mapping[str, Any]]
    profile: ProfileName
    broker: BrokerAddress | None
    url: str
    server_id: str
    nonce: str = ""


@dataclass(frozen=True)
class DeviceFacts:
    """What selectors and deployments need of a device, without its history."""

    id: DeviceId
    profile: ProfileName
    arch: str
    status: DeviceStatus
    labels: Mapping[str, str]
    free_mb: int | None
    models: Mapping[str, str] = field(default_factory=dict)
    """Active version of each model; empty when the selector asks for none."""
    groups: frozenset[str] = frozenset()
    """Groups that the device is in, of those that the selector asks for."""


@dataclass(frozen=True)
class Assigned:
    """One device whose desired document names the release now; gen 0 in a dry run."""

    device: DeviceId
    profile: ProfileName
    gen: int
    target: str


@dataclass(frozen=True)
class Skipped:
    """One device that matched but cannot run the release, why, and what to do."""

    device: DeviceId
    profile: ProfileName
    reason: str
    next: str


@dataclass(frozen=True)
class Deployment:
    """What a deployment did, or would do when it was a dry run."""

    release: str
    matched: int
    set: Sequence[Assigned]
    skipped: Sequence[Skipped]


@dataclass(frozen=True)
class SignedDesired:
    """A signed desired document as it goes to the broker."""

    device: DeviceId
    gen: int
    envelope: bytes


@dataclass(frozen=True)
class OfferedBlob:
    """A blob that a device may pull: digest and length in bytes."""

    sha256: Sha256
    length: int


@dataclass(frozen=True)
class Wish:
    """One model that a device should run."""

    model: ModelName
    active: Ref


@dataclass(frozen=True)
class ModelChange:
    """One change of one device's document: `active` None drops the model, `telemetry` None keeps what it is.

    over: made only where the document still names this digest, since somebody may have written over it meanwhile.
    beside: `active` is to run beside the active bundle instead, or no longer to; made only where that can be.
    """

    device: DeviceId
    model: ModelName
    active: Ref | None
    telemetry: TelemetryWish | None = None
    over: Sha256 | None = None
    beside: "Beside | None" = None


@dataclass(frozen=True)
class WantedRef:
    """What a device's document says of one model: its active bundle (None: the model is not in it), its gen and its candidate."""

    active: Ref | None
    gen: int
    candidate: Ref | None = None


class SaidCandidate(msgspec.Struct, frozen=True, kw_only=True):
    """What a report says of the candidate of a model; texts are empty where it says nothing."""

    sha256: str = ""
    state: str = ""
    code: str = ""
    reason: str = ""


@dataclass(frozen=True)
class ModelReport:
    """What a device says of one model, and of itself. Digests and texts are empty where it said nothing.

    `has_report`: there is a readable report that names the model; else `phase` is None and the fields from
    `active_target` to `serving` are empty. `reported_gen` and the `refused_…` fields are of the device.
    """

    device: DeviceId
    profile: ProfileName
    status: DeviceStatus
    last_seen: datetime | None
    reported_gen: int
    has_report: bool = False
    phase: Phase | None = None
    active_target: str = ""
    active_sha256: str = ""
    previous_sha256: str = ""
    wanted_sha256: str = ""
    attempt: int = 0
    gen: int = 0
    rollout: str = ""
    error_class: ErrorClass | None = None
    error_code: str = ""
    reason: str = ""
    serving: bool = False
    refused_gen: int = 0
    refused_code: str = ""
    refused_reason: str = ""
    is_revoked: bool = False
    candidate: SaidCandidate | None = None


@dataclass(frozen=True)
class NewEvent:
    """Something that happened here; `device` "" when it concerns none, `rollout` when it belongs to one."""

    kind: str
    device: str = ""
    model: str = ""
    rollout: str | None = None
    detail: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class EventFilter:
    """Which events: all that are given must hold; `kinds` empty means any."""

    device: str | None = None
    rollout: str | None = None
    kinds: Sequence[str] = ()
    since: datetime | None = None


@dataclass(frozen=True)
class Group:
    """A named selector, as routes return it; `devices` counts its live members."""

    name: str
    selector: str
    devices: int
    created_at: datetime
    created_by: str


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


@dataclass(frozen=True)
class TasksAsked:
    """Who was asked to do a task, or would be when it was a dry run. `tasks`: of those who were, by device."""

    kind: str
    matched: int
    asked: int
    dry_run: bool
    tasks: Mapping[str, str]
    skipped: Sequence[TaskSkipped]
