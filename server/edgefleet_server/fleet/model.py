"""Values that all parts of the fleet share. Those that routes return are public: a field is never renamed. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Final

from edgefleet_protocol.ids import DeviceId, ProfileName


class DeviceStatus(StrEnum):
    """Whether a device can be reached, as far as we know. Public: never renamed."""

    ONLINE = "online"
    OFFLINE = "offline"
    UNKNOWN = "unknown"
    REVOKED = "revoked"


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
    is_suspect: bool = False
    health: str = ""
    """A `Health`; "" when the selector does not ask for it."""


CA_STARTED: Final = "started"
CA_FINISHED: Final = "finished"
"""States of a rotation of the device CA in which devices get certificates of the next one. Stored, so never renamed."""
NO_MODEL_KEY: Final = "the model is sealed, and the device has told no key that it could be given to it with"
NEXT_FOR_MODEL_KEY: Final = (
    "update its agent (with sealed_needs_tpm also: `edge-agent tpm`), then run `edge-agent renew` on it; "
    "docs/operate/sealed-models.md"
)


@dataclass(frozen=True)
class Group:
    """A named selector, as routes return it; `devices` counts its live members."""

    name: str
    selector: str
    devices: int
    created_at: datetime
    created_by: str
