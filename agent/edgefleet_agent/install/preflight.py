"""Does a verified bundle fit this device now, and how is it brought in? Pure: facts in, a plan or a reason out.

1. A refusal says what is needed and for what, what there is, where, and what to do.
2. Memory: a worker needs what its bundle declares, or, where nothing is declared, about `UNDECLARED_BASE_BYTES` and twice the file.
   Only what is declared, and the reserve, can refuse; a guess only chooses the strategy.
3. Overlap when the new worker fits next to the old one: no caller waits. Else stop-first: the old worker leaves before the new one
   is tried; callers wait in the listener's backlog for as long as a worker takes to start. If the trial fails, the old one is
   started again.
4. An unknown figure (-1) never refuses and never stops what serves.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from edgefleet_agent.install.records import SlotInfo, Wanted
from edgefleet_protocol.messages import ErrorClass

MIB = 1024 * 1024
UNDECLARED_BASE_BYTES = 64 * MIB
"""Interpreter, numpy and a runtime without a model: 48 to 60 MiB measured with onnxruntime on x86-64."""


class Strategy(StrEnum):
    """How an install gets its memory. Stored in records, never renamed."""

    OVERLAP = "overlap"
    STOP_FIRST = "stop_first"


@dataclass(frozen=True, slots=True)
class Room:
    """What the device has now; -1 = unknown, which never refuses. runtimes: word → version.

    disk_where, memory_where: where that was found, for people. strategy: what a person has set, or `auto`.
    worker_limit_bytes: memory limit of a worker, 0 = none.
    """

    disk_free_bytes: int
    memory_available_bytes: int
    disk_reserve_bytes: int
    memory_reserve_bytes: int
    runtimes: Mapping[str, str]
    disk_where: str = "the state folder"
    memory_where: str = "the device"
    strategy: Literal["auto", "overlap", "stop_first"] = "auto"
    worker_limit_bytes: int = 0

    @property
    def spare_bytes(self) -> int:
        """Memory beyond the reserve, -1 = unknown."""
        available = self.memory_available_bytes
        return max(0, available - self.memory_reserve_bytes) if available >= 0 else -1


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
        reason = (
            f"{room.disk_free_bytes} bytes free ({_mib(room.disk_free_bytes)}) in {room.disk_where}; needed are {needed} "
            f"({_mib(needed)}): bundle {_mib(wanted.length)} + reserve {_mib(room.disk_reserve_bytes)} - "
            f"{_mib(reclaimed_bytes)} that its slot gives back; {_mib(needed - room.disk_free_bytes)} too little: "
            "remove files there, or a model from this device"
        )
        return Unfit(ErrorClass.DISK, "preflight.disk", reason)
    return None


def check_fit(info: SlotInfo, room: Room, old_bytes: int = 0) -> Unfit | Strategy:
    """Before the trial: runtime and memory. old_bytes: what the worker that serves would give back, 0 = none serves."""
    if info.runtime not in room.runtimes:
        have = ", ".join(sorted(room.runtimes)) or "none"
        reason = f"the bundle needs runtime {info.runtime}; installed here: {have}"
        return Unfit(ErrorClass.INCOMPATIBLE, "preflight.runtime", reason)
    if 0 < room.worker_limit_bytes < info.peak_memory_bytes:
        reason = (
            f"the bundle declares a need of {info.peak_memory_bytes} bytes ({_mib(info.peak_memory_bytes)}); "
            f"a worker may have {room.worker_limit_bytes} ({_mib(room.worker_limit_bytes)}): raise worker_memory_bytes, "
            "or deploy a smaller model"
        )
        return Unfit(ErrorClass.MEMORY, "preflight.worker_limit", reason)
    return _memory(info, room, max(0, old_bytes))


def _memory(info: SlotInfo, room: Room, old_bytes: int) -> Unfit | Strategy:
    available, needed = room.memory_available_bytes, info.peak_memory_bytes + room.memory_reserve_bytes
    if 0 <= available < needed - old_bytes:
        reason = (
            f"{available} bytes of memory available ({_mib(available)}) on {room.memory_where} and {_mib(old_bytes)} in the "
            f"worker that serves; the bundle declares a need of {info.peak_memory_bytes} and the reserve is "
            f"{room.memory_reserve_bytes}, together {needed} ({_mib(needed)}): end other programs, or deploy a smaller model"
        )
        return Unfit(ErrorClass.MEMORY, "preflight.memory", reason)
    if room.strategy != "auto":
        return Strategy(room.strategy)
    likely = info.peak_memory_bytes or UNDECLARED_BASE_BYTES + 2 * info.length
    if old_bytes and 0 <= available < likely + room.memory_reserve_bytes:
        return Strategy.STOP_FIRST
    return Strategy.OVERLAP


def _mib(size: int) -> str:
    return f"{size / MIB:.1f} MiB"
