"""Bodies of the enrolment routes, for operators and for devices."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from edgefleet_server.fleet.enrolment.model import NewClaim
from edgefleet_server.fleet.schemas import Label, StrictBody
from edgefleet_server.web.strict_types import Whole


class EnrollmentIn(StrictBody):
    """Claim tokens to make."""

    count: Annotated[int, Whole(1, 1000)] = 1
    uses: Annotated[int, Whole(1, 100_000)] = 1
    ttl_s: Annotated[int, Whole(60, 365 * 86_400)] = 86_400
    labels: dict[str, Label] = Field(default={})
    profile: str | None = None
    name_prefix: str | None = Field(default=None, max_length=32)
    approval: bool | None = None
    """Devices wait until an operator approves them; null: as the server's setting `enrol_approval` says."""
    display_name: str = ""
    """What people call the device; numbered where it is for several. "": the name that `edge-agent enroll --name` gives, if any."""


class PendingChoiceIn(StrictBody):
    """Waiting devices: by their fingerprints, or by a selector ("" = all), and of one claim token only where it is named."""

    ids: list[str] | None = Field(default=None, max_length=1000)
    selector: str | None = Field(default=None, max_length=4096)
    claim: str | None = Field(default=None, max_length=32)


class RejectIn(PendingChoiceIn):
    """Waiting devices to reject, and why."""

    reason: str = Field(default="", max_length=500)


class ClaimTokensOut(BaseModel):
    """New claim tokens, and the line that installs the agent on a machine and enrols it, which reads a token from its standard input.

    install: null as long as the server has no package of the agent.
    """

    tokens: list[NewClaim]
    install: str | None = None


class EnrollIn(BaseModel):
    """A device's request to be let in. Unknown fields are ignored: newer agents may send more."""

    token: str = Field(max_length=4096)
    csr: str = Field(max_length=16_384)
    facts: dict[str, Any] = {}
    nonce: str = Field(default="", max_length=128)
    waiting: bool = False
    """The device was answered before that it has to wait: this asks for the state of that request, it is no new one."""


class RenewIn(BaseModel):
    """A device's request for a certificate for a new key. model_key, key_storage: as among the facts of an enrolment.

    place: number of the newest announcement that it knows, 0 = it does not say.
    """

    csr: str = Field(max_length=16_384)
    nonce: str = Field(default="", max_length=128)
    model_key: str = Field(default="", pattern=r"^([0-9a-f]{64})?$")
    key_storage: Literal["", "file", "tpm"] = ""
    place: int = Field(default=0, ge=0, lt=2**63)
