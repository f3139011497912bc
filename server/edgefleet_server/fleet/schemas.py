"""Bodies of requests about devices, labels and groups. What goes out is `model` and `inventory.views` as they are."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from edgefleet_server.web.strict_types import Flag

Label = Annotated[str, StringConstraints(max_length=127)]


class StrictBody(BaseModel):
    model_config = ConfigDict(extra="forbid")


class DeviceIn(StrictBody):
    """Changes of one device: labels to set (null removes one), its profile, and its display name ("" removes it)."""

    labels: dict[str, Label | None] = {}
    profile: str | None = None
    display_name: str | None = None


class ClearSuspicionIn(StrictBody):
    """Why a suspect device is trusted again: part of the event."""

    reason: str = Field(default="", max_length=500)


class LabelsIn(StrictBody):
    """Labels to set (null removes one) of every live device that a selector matches ("" = all). dry_run: only count them."""

    selector: str = Field(max_length=4096)
    labels: dict[str, Label | None] = Field(min_length=1, max_length=64)
    dry_run: Flag = False


class GroupIn(StrictBody):
    """A group to make: a name and a selector ("" = every device)."""

    name: str = Field(max_length=128)
    selector: str = Field(max_length=4096)


class GroupChangeIn(StrictBody):
    """Another selector for a group ("" = every device)."""

    selector: str = Field(max_length=4096)
