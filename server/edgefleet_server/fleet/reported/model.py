"""Values of reports: what a device says of one model and of its candidate. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import msgspec

from edgefleet_protocol.ids import DeviceId, ProfileName
from edgefleet_protocol.messages import ErrorClass, Phase
from edgefleet_server.fleet.model import DeviceStatus
from edgefleet_server.signing.fast_forward_recovery import RoleChange


class SaidCandidate(msgspec.Struct, frozen=True, kw_only=True):
    """What a report says of the candidate of a model; texts are empty where it says nothing."""

    sha256: str = ""
    state: str = ""
    code: str = ""
    reason: str = ""


@dataclass(frozen=True)
class ModelReport:
    """What a device reports of one model, and of itself. Digests and texts are empty where it reported nothing.

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
    is_suspect: bool = False
    candidate: SaidCandidate | None = None


@dataclass(frozen=True)
class RecoveryWord:
    """What one device says it has seen. version: the highest of any role, 0 when none went back; roles: how many it names beyond ours.

    asked_at: when the server drew the device to ask it, null when it spoke by itself.
    """

    device: DeviceId
    version: int
    roles: int
    said_at: datetime
    asked_at: datetime | None


@dataclass(frozen=True)
class RecoveryModel:
    """A model that devices know and this server does not. devices: how many name it; named_by: the first of them."""

    model: str
    devices: int
    named_by: Sequence[DeviceId]


@dataclass(frozen=True)
class RecoveryView:
    """What devices have seen that is not here. version: the highest, or the time; roles: what signing above it would change.

    models: unknown here, each made only when it is named. lost_models: were made so, and wait to be published.
    """

    version: int
    roles: Sequence[RoleChange]
    models: Sequence[RecoveryModel]
    words: Sequence[RecoveryWord]
    lost_models: Sequence[str]


@dataclass(frozen=True)
class RecoveryDone:
    """What was signed. version: everything is above it. everything: all roles, not only those of the models."""

    version: int
    everything: bool
    models: Sequence[str]
