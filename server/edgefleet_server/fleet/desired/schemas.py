"""Bodies of requests about deployments, tasks and the capture key."""

from datetime import timedelta
from typing import Annotated, Literal

from pydantic import Field

from edgefleet_server.fleet.desired.model import TaskOrder
from edgefleet_server.fleet.schemas import StrictBody
from edgefleet_server.web.strict_types import Flag, Whole


class DeployIn(StrictBody):
    """Where to deploy: a selector ("" = every device) or one device.

    mode: next to the active version as a shadow, or with a share of its requests (split), or `end` that; null makes it active.
    `measure` runs it on its golden inputs once, whatever is active.
    """

    selector: str | None = None
    device: str | None = None
    dry_run: Flag = False
    mode: Literal["shadow", "split", "measure", "end"] | None = None
    share_pct: Annotated[int, Whole(0, 100)] = 0
    salt: str = Field(default="", max_length=64)


class TaskIn(StrictBody):
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


class CaptureKeyIn(StrictBody):
    """The public half of a capture key: 64 hex digits."""

    public_key: str = Field(min_length=64, max_length=64)
