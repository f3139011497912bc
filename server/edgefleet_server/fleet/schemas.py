"""Bodies of the fleet's routes: what comes in, and tokens. What goes out is `model` and `views` as they are."""

from datetime import timedelta
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from edgefleet_server.bodies import Flag, Whole
from edgefleet_server.fleet.model import NewClaim, TaskOrder

Label = Annotated[str, StringConstraints(max_length=127)]


class _In(BaseModel):
    model_config = ConfigDict(extra="forbid")


class EnrollmentIn(_In):
    """Claim tokens to make."""

    count: Annotated[int, Whole(1, 1000)] = 1
    uses: Annotated[int, Whole(1, 100_000)] = 1
    ttl_s: Annotated[int, Whole(60, 365 * 86_400)] = 86_400
    labels: dict[str, Label] = {}
    profile: str | None = None
    name_prefix: str | None = Field(default=None, max_length=32)
    approval: bool | None = None
    """Devices wait until an operator approves them; null: as the server's setting `enrol_approval` says."""


class PendingChoiceIn(_In):
    """Waiting devices: by their fingerprints, or by a selector ("" = all), and of one claim token only where it is named."""

    ids: list[str] | None = Field(default=None, max_length=1000)
    selector: str | None = Field(default=None, max_length=4096)
    claim: str | None = Field(default=None, max_length=32)


class RejectIn(PendingChoiceIn):
    """Waiting devices to reject, and why."""

    reason: str = Field(default="", max_length=500)


class ClaimTokensOut(BaseModel):
    """New claim tokens."""

    tokens: list[NewClaim]


class DeviceIn(_In):
    """Changes of one device: labels to set (null removes one), and its profile."""

    labels: dict[str, Label | None] = {}
    profile: str | None = None


class LabelsIn(_In):
    """Labels to set (null removes one) of every live device that a selector matches ("" = all). dry_run: only count them."""

    selector: str = Field(max_length=4096)
    labels: dict[str, Label | None] = Field(min_length=1, max_length=64)
    dry_run: Flag = False


class DeployIn(_In):
    """Where to deploy: a selector ("" = every device) or one device.

    mode: beside the active version as a shadow, or with a share of its requests (split), or `end` that; null makes it active.
    `measure` runs it on its golden inputs once, whatever is active.
    """

    selector: str | None = None
    device: str | None = None
    dry_run: Flag = False
    mode: Literal["shadow", "split", "measure", "end"] | None = None
    share_pct: Annotated[int, Whole(0, 100)] = 0
    salt: str = Field(default="", max_length=64)


class GroupIn(_In):
    """A group to make: a name and a selector ("" = every device)."""

    name: str = Field(max_length=128)
    selector: str = Field(max_length=4096)


class GroupChangeIn(_In):
    """Another selector for a group ("" = every device)."""

    selector: str = Field(max_length=4096)


class TaskIn(_In):
    """A task for one device. lines, contains: of `logs`. what, model: of `restart` (the agent, or a model's worker)."""

    kind: Literal["diag", "logs", "restart"]
    ttl_s: Annotated[int, Whole(10, 7 * 86_400)] = 3_600
    lines: Annotated[int, Whole(1, 5_000)] | None = None
    contains: str | None = Field(default=None, max_length=128)
    what: Literal["agent", "worker"] | None = None
    model: str | None = Field(default=None, max_length=63)

    def order(self) -> TaskOrder:
        """Return what is asked, with the arguments that were given."""
        given = self.model_dump(include={"lines", "contains", "what", "model"}, exclude_none=True)
        return TaskOrder(self.kind, given, timedelta(seconds=self.ttl_s))


class TasksIn(TaskIn):
    """A task for every live device that a selector matches ("" = all). dry_run: only count them."""

    selector: str = Field(max_length=4096)
    dry_run: bool = False


class EnrollIn(BaseModel):
    """A device's request to be let in. Unknown fields are ignored: newer agents may send more."""

    token: str = Field(max_length=4096)
    csr: str = Field(max_length=16_384)
    facts: dict[str, Any] = {}
    nonce: str = Field(default="", max_length=128)
    waiting: bool = False
    """The device was told before that it has to wait: it asks how that stands, and not anew."""


class RenewIn(BaseModel):
    """A device's request for a certificate for a new key."""

    csr: str = Field(max_length=16_384)
    nonce: str = Field(default="", max_length=128)


class CaptureKeyIn(_In):
    """The public half of a capture key: 64 hex digits."""

    public_key: str = Field(min_length=64, max_length=64)
