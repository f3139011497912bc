"""Bodies of the fleet's routes."""

from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from edgefleet_server.fleet.model import ClaimView, Deployment, Enrolment, NewClaim
from edgefleet_server.fleet.views import DeviceView, EventView, ReleaseDevice, Summary

Label = Annotated[str, StringConstraints(max_length=127)]


class _In(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Out(BaseModel):
    model_config = ConfigDict(from_attributes=True)


class EnrollmentIn(_In):
    """Claim tokens to make."""

    count: int = Field(default=1, ge=1, le=1000)
    uses: int = Field(default=1, ge=1, le=100_000)
    ttl_s: int = Field(default=86_400, ge=60, le=365 * 86_400)
    labels: dict[str, Label] = {}
    profile: str | None = None
    name_prefix: str | None = Field(default=None, max_length=32)


class ClaimTokenOut(_Out):
    """A token; its text is in this answer and nowhere else."""

    id: str
    token: str
    expires_at: datetime

    @classmethod
    def of(cls, claim: NewClaim) -> "ClaimTokenOut":
        """Translate."""
        return cls.model_validate(claim)


class ClaimTokensOut(BaseModel):
    """New claim tokens."""

    tokens: list[ClaimTokenOut]


class ClaimOut(_Out):
    """A claim token without its secret, and the devices it enrolled."""

    id: str
    uses: int
    uses_left: int
    expires_at: datetime
    created_at: datetime
    created_by: str
    profile: str | None
    labels: dict[str, str]
    devices: list[str]

    @classmethod
    def of(cls, claim: ClaimView) -> "ClaimOut":
        """Translate."""
        return cls.model_validate(claim)


class DesiredModelOut(_Out):
    """One model that the device should run."""

    model: str
    release: str
    target: str
    sha256: str


class DesiredOut(BaseModel):
    """The device's desired document."""

    gen: int
    issued_at: datetime | None
    expires_at: datetime | None
    models: list[DesiredModelOut]


class ModelStateOut(_Out):
    """One model as the device reports it. `state` is the server's word for `phase`."""

    model: str
    release: str | None
    target: str
    sha256: str
    phase: str
    state: str
    error_class: str | None
    error_code: str
    reason: str
    wanted_sha256: str
    previous_target: str
    progress_pct: int
    slot: str
    serving: bool
    changed_at: datetime


class RefusalOut(_Out):
    """A newer document that the device did not accept."""

    gen: int
    code: str
    reason: str


class DeviceOut(BaseModel):
    """One device. `telemetry` (its newest figures) is given for a single device only."""

    id: str
    profile: str
    arch: str
    status: str
    labels: dict[str, str]
    facts: dict[str, Any]
    enrolled_at: datetime
    last_seen: datetime | None
    cert_not_after: datetime
    free_mb: int | None
    agent_version: str
    desired: DesiredOut
    reported_gen: int
    refused: RefusalOut | None
    models: list[ModelStateOut]
    telemetry: dict[str, Any] | None = None

    @classmethod
    def of(cls, view: DeviceView, telemetry: dict[str, Any] | None = None) -> "DeviceOut":
        """Translate."""
        return cls(
            id=view.id,
            profile=view.profile,
            arch=view.arch,
            status=view.status.value,
            labels=dict(view.labels),
            facts=dict(view.facts),
            enrolled_at=view.enrolled_at,
            last_seen=view.last_seen,
            cert_not_after=view.cert_not_after,
            free_mb=view.free_mb,
            agent_version=view.agent_version,
            desired=DesiredOut(
                gen=view.desired_gen,
                issued_at=view.desired_issued_at,
                expires_at=view.desired_expires_at,
                models=[DesiredModelOut.model_validate(model) for model in view.desired],
            ),
            reported_gen=view.reported_gen,
            refused=None if view.refused is None else RefusalOut.model_validate(view.refused),
            models=[ModelStateOut.model_validate(model) for model in view.models],
            telemetry=telemetry,
        )


class DeviceIn(_In):
    """Changes of one device: labels to set (null removes one), and its profile."""

    labels: dict[str, Label | None] = {}
    profile: str | None = None


class DeployIn(_In):
    """Where to deploy: a selector ("" = every device) or one device."""

    selector: str | None = None
    device: str | None = None
    dry_run: bool = False


class AssignedOut(_Out):
    """A device whose document names the release now; gen 0 in a dry run."""

    device: str
    profile: str
    gen: int
    target: str


class SkippedOut(_Out):
    """A matching device that cannot run the release."""

    device: str
    profile: str
    reason: str
    next: str


class DeploymentOut(_Out):
    """What a deployment did."""

    release: str
    matched: int
    set: list[AssignedOut]
    skipped: list[SkippedOut]

    @classmethod
    def of(cls, deployment: Deployment) -> "DeploymentOut":
        """Translate."""
        return cls.model_validate(deployment)


class ReleaseDeviceOut(_Out):
    """A device that runs a release or should."""

    device: str
    profile: str
    status: str
    wanted: bool
    active: bool
    phase: str | None
    state: str
    error_class: str | None

    @classmethod
    def of(cls, one: ReleaseDevice) -> "ReleaseDeviceOut":
        """Translate."""
        return cls.model_validate(one)


class EventOut(_Out):
    """Something that happened."""

    id: int
    device: str
    at: datetime
    received_at: datetime
    kind: str
    model: str
    detail: dict[str, Any]

    @classmethod
    def of(cls, event: EventView) -> "EventOut":
        """Translate."""
        return cls.model_validate(event)


class ModelCountOut(_Out):
    """How many devices report one state of one version."""

    model: str
    version: str
    state: str
    devices: int


class SummaryOut(_Out):
    """The fleet in numbers."""

    devices: int
    status: dict[str, int]
    profiles: dict[str, int]
    models: list[ModelCountOut]

    @classmethod
    def of(cls, summary: Summary) -> "SummaryOut":
        """Translate."""
        return cls.model_validate(summary)


class EnrollIn(BaseModel):
    """A device's request to be let in. Unknown fields are ignored: newer agents may send more."""

    token: str = Field(max_length=4096)
    csr: str = Field(max_length=16_384)
    facts: dict[str, Any] = {}
    nonce: str = Field(default="", max_length=128)


class RenewIn(BaseModel):
    """A device's request for a certificate for a new key."""

    csr: str = Field(max_length=16_384)
    nonce: str = Field(default="", max_length=128)


class BrokerOut(_Out):
    """Where the broker is; mqtt: "5" or "3.1.1"."""

    host: str
    port: int
    mqtt: str


class EnrollOut(_Out):
    """The device's identity and what it must trust. `nonce` is the one of the request."""

    device_id: str
    tenant: str
    cert: str
    ca: str
    root_chain: list[dict[str, Any]]
    profile: str
    broker: BrokerOut | None
    url: str
    server_id: str
    nonce: str = ""

    @classmethod
    def of(cls, enrolment: Enrolment, nonce: str) -> "EnrollOut":
        """Translate."""
        made = cls.model_validate(enrolment)
        return made.model_copy(update={"nonce": nonce})
