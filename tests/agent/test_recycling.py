"""Workers that leak are replaced in time, and limited where the system lets us."""

import os
from pathlib import Path

import pytest

from edgefleet_agent.clock import SystemClock
from edgefleet_agent.core.cgroup import Cgroups, delegated
from edgefleet_agent.core.loop import Loop
from edgefleet_agent.install.probation.memory_leak import MIB, Memory, Resident
from edgefleet_agent.serving.memory_restart import MIN_AGE_S, MemoryRestarter, why


def readings(start_mib: float, per_hour_mib: float, minutes: int = 60) -> Resident:
    """Return one reading a minute of a worker that grows steadily."""
    at = tuple((m * 60, int((start_mib + per_hour_mib * m / 60) * MIB)) for m in range(minutes))
    return Resident(pid=1, at=at)


@pytest.mark.parametrize(
    ("known", "memory", "reason"),
    [
        (readings(60, 0), Memory(0, 100 * MIB), ""),
        (readings(60, 0.5), Memory(0, 1 * MIB), ""),
        (readings(60, 40), Memory(0, 100 * MIB), "rose by"),
        (readings(60, 40), Memory(0, 10_000 * MIB), ""),  # a day at this rate is no harm here
        (readings(60, 40), Memory(0, -1), ""),
        (readings(60, 40), Memory(200 * MIB, -1), "rose by"),
        (readings(95, 0), Memory(100 * MIB, -1), "its limit is 90.0 MiB"),
        (readings(80, 0), Memory(100 * MIB, -1), ""),
        (readings(60, 400, minutes=9), Memory(0, 100 * MIB), ""),  # too young: it may be filling its caches
        (Resident(), Memory(0, 100 * MIB), ""),
    ],
)
def test_who_is_replaced(known: Resident, memory: Memory, reason: str) -> None:
    found = why(known, memory)
    assert (reason in found) if reason else (found == "")


def test_a_leak_is_found_once_and_its_successor_begins_anew() -> None:
    pids = {"leaks": 1, "rests": 2}
    asked: list[tuple[str, str]] = []
    may = False
    now = 0

    def recycle(model: str, reason: str) -> bool:
        asked.append((model, reason))
        if may:
            pids[model] += 10
        return may

    def rss(pid: int) -> int:
        return int((60 + now / 60) * MIB) if pid == 1 else 50 * MIB

    loop = Loop(SystemClock())
    watch = MemoryRestarter(loop, lambda: pids, rss, lambda: Memory(0, 100 * MIB), recycle)
    while not asked:
        now += 60
        watch.look(now)
    assert now > MIN_AGE_S
    assert asked[0][0] == "leaks"
    assert "without resting" in asked[0][1]
    may = True  # an install was under way: the next look asks again
    now += 60
    watch.look(now)
    assert [model for model, _ in asked] == ["leaks", "leaks"]
    for _ in range(40):
        now += 60
        watch.look(now)
    assert len(asked) == 2
    loop.close()


# ---- cgroups: the files of a delegated subtree, as the kernel lays them out


def tree(folder: Path, controllers: str = "cpu memory pids") -> tuple[Path, Path]:
    """Return the mount and /proc/self/cgroup of a process whose unit has a subtree."""
    unit = folder / "system.slice" / "edge-agent.service"
    unit.mkdir(parents=True)
    (unit / "cgroup.controllers").write_text(controllers + "\n")
    (unit / "cgroup.procs").write_text(f"{os.getpid()}\n")
    own = folder / "own"
    own.write_text("0::/system.slice/edge-agent.service\n")
    return unit, own


def test_the_agent_moves_aside_and_gives_its_children_the_controller(tmp_path: Path) -> None:
    unit, own = tree(tmp_path)
    found = delegated(tmp_path, own)
    assert found is not None
    assert found.root == unit
    assert (unit / "agentd" / "cgroup.procs").read_text() == str(os.getpid())
    assert (unit / "cgroup.subtree_control").read_text() == "+memory"
    assert found.place(77, "worker-1", 50 * MIB)
    leaf = unit / "worker-1"
    assert (leaf / "memory.max").read_text() == str(50 * MIB)
    assert (leaf / "memory.swap.max").read_text() == "0"
    assert (leaf / "cgroup.procs").read_text() == "77"
    assert not found.was_killed_for_memory("worker-1")
    (leaf / "memory.events").write_text("low 0\nhigh 0\nmax 12\noom 1\noom_kill 1\n")
    assert found.was_killed_for_memory("worker-1")


@pytest.mark.parametrize("what", ["no controller", "hybrid", "root", "no file"])
def test_without_delegation_there_is_none(tmp_path: Path, what: str) -> None:
    _, own = tree(tmp_path, "cpu" if what == "no controller" else "memory")
    if what == "hybrid":
        own.write_text("9:memory:/x\n0::/\n")
    elif what == "root":
        own.write_text("0::/\n")
    elif what == "no file":
        own.unlink()
    assert delegated(tmp_path, own) is None


def test_a_kernel_that_refuses_leaves_the_limit_to_the_worker(tmp_path: Path) -> None:
    assert not Cgroups(tmp_path / "none").place(77, "worker-1", MIB)
    Cgroups(tmp_path).release("worker-1")
