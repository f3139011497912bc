"""Does a verified bundle fit this device now? Pure: facts in, a reason or None out."""

from collections.abc import Mapping
from dataclasses import dataclass

from edgefleet_agent.install.records import SlotInfo, Wanted
from edgefleet_protocol.messages import ErrorClass


@dataclass(frozen=True, slots=True)
class Room:
    """What the device has now; -1 = unknown, which never refuses. runtimes: word → version."""

    disk_free_bytes: int
    memory_available_bytes: int
    disk_reserve_bytes: int
    memory_reserve_bytes: int
    runtimes: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Unfit:
    """Why not."""

    error_class: ErrorClass
    code: str
    reason: str


def check_disk(wanted: Wanted, reclaimed_bytes: int, room: Room) -> Unfit | None:
    """Before the download. reclaimed_bytes: what the slot that will be overwritten gives back."""
    needed = wanted.length + room.disk_reserve_bytes - reclaimed_bytes
    if 0 <= room.disk_free_bytes < needed:
        reason = f"{room.disk_free_bytes} bytes free; bundle and reserve need {needed}: remove files from the device's storage"
        return Unfit(ErrorClass.DISK, "preflight.disk", reason)
    return None


def check_fit(info: SlotInfo, room: Room) -> Unfit | None:
    """Before the trial: runtime and memory."""
    if info.runtime not in room.runtimes:
        have = ", ".join(sorted(room.runtimes)) or "none"
        reason = f"the bundle needs runtime {info.runtime}; installed here: {have}"
        return Unfit(ErrorClass.INCOMPATIBLE, "preflight.runtime", reason)
    needed = info.peak_memory_bytes + room.memory_reserve_bytes
    if 0 <= room.memory_available_bytes < needed:
        reason = f"{room.memory_available_bytes} bytes of memory available; the bundle declares a need of {needed}"
        return Unfit(ErrorClass.MEMORY, "preflight.memory", reason)
    return None
