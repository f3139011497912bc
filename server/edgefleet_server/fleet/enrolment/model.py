"""Values of enrolment: claim tokens, the identity of a device, and the answer that it gets.

Public where routes return them. Pure.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from edgefleet_protocol.ids import DeviceId, ProfileName


@dataclass(frozen=True)
class DeviceKeys:
    """What a device says of its keys when it renews its certificate, as among the facts of an enrolment; "": as it was."""

    model_key: str = ""
    key_storage: str = ""


NO_KEYS: Final = DeviceKeys()


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
    display_name: str = ""


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
    display_name: str = ""


@dataclass(frozen=True)
class BrokerAddress:
    """Where devices find the broker; `mqtt` is "5" or "3.1.1"."""

    host: str
    port: int
    mqtt: str


@dataclass(frozen=True)
class DeviceIdentity:
    """What the device routes know of the device that calls: its id, its profile and its public key (PEM).

    request: SHA-256 (hex) of the certificate request that its token is for, "" where it names none.
    """

    id: DeviceId
    profile: ProfileName
    public_key: str
    request: str = ""


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
    display_name: str = ""
