"""Whether a bundle fits, what is said when it does not, and how the new worker gets its memory."""

import dataclasses

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefleet_agent.install.preflight import MIB, UNDECLARED_BASE_BYTES, Room, Strategy, Unfit, check_disk, check_fit
from edgefleet_agent.install.records import SlotInfo
from edgefleet_protocol.messages import ErrorClass
from tests.agent.records import wanted

INFO = SlotInfo(
    model="digits",
    version="1",
    profile="p",
    target="digits/1/p.bundle",
    sha256="a" * 64,
    length=10 * MIB,
    runtime="ort",
    peak_memory_bytes=100 * MIB,
)
ROOM = Room(
    disk_free_bytes=50 * MIB,
    memory_available_bytes=200 * MIB,
    disk_reserve_bytes=32 * MIB,
    memory_reserve_bytes=24 * MIB,
    runtimes={"ort": "1.20"},
    disk_where="/data/edge",
)


def room(**changes: object) -> Room:
    """Return the device with something else."""
    return dataclasses.replace(ROOM, **changes)  # type: ignore[arg-type]


def test_a_full_disk_is_said_with_what_is_needed_what_is_free_and_where() -> None:
    wish = msgspec.structs.replace(wanted(), length=40 * MIB)
    assert check_disk(wish, 30 * MIB, ROOM) is None
    unfit = check_disk(wish, 0, ROOM)
    assert unfit is not None
    assert (unfit.error_class, unfit.code) == (ErrorClass.DISK, "preflight.disk")
    for part in ("50.0 MiB", "/data/edge", "72.0 MiB", "bundle 40.0 MiB", "reserve 32.0 MiB", "22.0 MiB too little"):
        assert part in unfit.reason


def test_an_unknown_disk_or_memory_never_refuses_nor_stops_what_serves() -> None:
    assert check_disk(wanted(), 0, room(disk_free_bytes=-1)) is None
    assert check_fit(INFO, room(memory_available_bytes=-1), 50 * MIB) is Strategy.OVERLAP


@pytest.mark.parametrize(
    ("available", "old", "plan"),
    [
        (124, 0, Strategy.OVERLAP),
        (124, 60, Strategy.OVERLAP),
        # not beside the old worker, but in its place
        (123, 60, Strategy.STOP_FIRST),
        (64, 60, Strategy.STOP_FIRST),
        # not even so
        (63, 60, "preflight.memory"),
        # nothing serves that could stop
        (123, 0, "preflight.memory"),
    ],
)
def test_the_strategy_follows_free_memory(available: int, old: int, plan: Strategy | str) -> None:
    found = check_fit(INFO, room(memory_available_bytes=available * MIB), old * MIB)
    if isinstance(found, Unfit):
        assert found.code == plan
        assert f"{available}.0 MiB" in found.reason
        assert f"{old}.0 MiB in the worker that serves" in found.reason
    else:
        assert found is plan


def test_a_bundle_that_declares_nothing_is_guessed_and_never_refused_for_the_guess() -> None:
    info = msgspec.structs.replace(INFO, peak_memory_bytes=0)
    enough = UNDECLARED_BASE_BYTES + 2 * info.length + ROOM.memory_reserve_bytes
    assert check_fit(info, room(memory_available_bytes=enough), MIB) is Strategy.OVERLAP
    assert check_fit(info, room(memory_available_bytes=enough - 1), MIB) is Strategy.STOP_FIRST
    assert check_fit(info, room(memory_available_bytes=enough - 1), 0) is Strategy.OVERLAP
    assert isinstance(check_fit(info, room(memory_available_bytes=1), 0), Unfit)


def test_what_a_person_has_set_comes_before_the_guess() -> None:
    assert check_fit(INFO, room(strategy="stop_first"), 0) is Strategy.STOP_FIRST
    tight = room(strategy="overlap", memory_available_bytes=100 * MIB)
    assert check_fit(INFO, tight, 60 * MIB) is Strategy.OVERLAP


def test_more_than_a_worker_may_have_is_refused_before_it_is_tried() -> None:
    unfit = check_fit(INFO, room(worker_limit_bytes=90 * MIB), 0)
    assert isinstance(unfit, Unfit)
    assert unfit.code == "preflight.worker_limit"
    assert "worker_memory_bytes" in unfit.reason


@given(st.integers(-1, 500), st.integers(0, 200), st.integers(0, 300))
def test_more_room_never_makes_it_worse(available: int, old: int, declared: int) -> None:
    order = [Strategy.OVERLAP, Strategy.STOP_FIRST]
    info = msgspec.structs.replace(INFO, peak_memory_bytes=declared * MIB)

    def rank(free: int) -> int:
        plan = check_fit(info, room(memory_available_bytes=free * MIB), old * MIB)
        return order.index(plan) if isinstance(plan, Strategy) else 2

    if available >= 0:
        assert rank(available + 50) <= rank(available)
