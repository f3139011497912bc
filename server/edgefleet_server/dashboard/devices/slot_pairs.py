"""The two slots of each model of a device: what is in them, which one answers, and what a rollback would do. Pure."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from edgefleet_protocol.errors import EdgefleetError
from edgefleet_protocol.ids import parse_target_path
from edgefleet_server.fleet.inventory.views import DeviceView, ReportedModel

Sizes = Callable[[str], int | None]
"""Returns the size of a bundle by its target path, None where it is not known."""


@dataclass(frozen=True, slots=True)
class Slot:
    """One slot. release: "" when it is empty; profile: of its bundle; size: None where it is not known.

    sha256, since: of the active one; note: why an active one does not answer.
    """

    name: str
    is_active: bool
    release: str
    profile: str
    size: int | None
    sha256: str = ""
    since: datetime | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class SlotPair:
    """The slots of a model. rollback: what a rollback without a download would run, "" when it cannot."""

    model: str
    active: Slot
    standby: Slot
    rollback: str
    progress: int | None


def slot_pairs(device: DeviceView, sizes: Sizes) -> Sequence[SlotPair]:
    """Return the slots of each model that a device reports."""
    wanted = {one.model: one.release for one in device.desired.models}
    return [_pair(one, wanted.get(one.model, ""), sizes) for one in device.models]


def _pair(one: ReportedModel, wanted: str, sizes: Sizes) -> SlotPair:
    name = one.slot.upper()
    other = {"A": "B", "B": "A"}.get(name, "other")
    release, profile = _named(one.target)
    before, before_profile = _named(one.previous_target)
    is_on = one.serving and bool(release)
    active = Slot(
        name=name,
        is_active=is_on,
        release=release,
        profile=profile,
        size=sizes(one.target) if release else None,
        sha256=one.sha256,
        since=one.changed_at,
        note="" if is_on or not release else "It does not answer now",
    )
    rollback = before if before and before != wanted else ""
    standby = Slot(other, False, before, before_profile, sizes(one.previous_target) if before else None)
    return SlotPair(one.model, active, standby, rollback, one.progress_pct if one.phase == "downloading" else None)


def _named(target: str) -> tuple[str, str]:
    """Return the release and the profile of a bundle's path; empty texts for what is none."""
    try:
        model, version, profile = parse_target_path(target)
    except EdgefleetError:
        return "", ""
    return f"{model}@{version}", profile
