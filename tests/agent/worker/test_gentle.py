"""What starts beside a worker that serves stays below it, and what will serve does not."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from edgefleet_agent.worker.control.start_priority import IDLE, LOW, NICE, gently, priority_of
from tests.agent.worker.conftest import WAIT_S, Rig
from tests.agent.worker.models import bundle_bytes, classifier_onnx


def own() -> tuple[int, int, int, set[int]]:
    """Return thread, policy, nice value and cores of whoever asks."""
    thread = threading.get_native_id()
    return thread, os.sched_getscheduler(thread), os.getpriority(os.PRIO_PROCESS, thread), os.sched_getaffinity(thread)


def test_work_is_done_below_the_thread_that_waits_for_it() -> None:
    here = own()
    cores = here[3]
    found: list[tuple[int, int, int, set[int]]] = []
    for priority in (IDLE, LOW, ""):
        gently(lambda: found.append(own()), priority)
    assert [each[1:] for each in found] == [
        (os.SCHED_IDLE, NICE, {max(cores)}),
        (os.SCHED_OTHER, NICE, cores),
        (here[1], here[2], cores),
    ]
    assert found[2] == here == own()


def test_where_the_one_is_refused_the_nice_value_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    cores = os.sched_getaffinity(0)
    found: list[tuple[int, int, int, set[int]]] = []
    gently(lambda: found.append(own()), IDLE)
    assert found[0][1:] == (os.SCHED_OTHER, NICE, cores)
    monkeypatch.setattr(os, "setpriority", refuse)
    gently(lambda: found.append(own()), IDLE)
    assert found[1][1:] == own()[1:]


def test_what_goes_wrong_is_raised_where_it_is_waited_for() -> None:
    def fail() -> None:
        raise SystemExit(2)

    for priority in (IDLE, ""):
        with pytest.raises(SystemExit):
            gently(fail, priority)


@pytest.mark.parametrize(
    ("arguments", "priority"),
    [
        (["-c", "--control-fd", "3"], ""),
        (["-c", "--control-fd", "3", "--gentle", "idle"], "idle"),
        (["-c", "--gentle", "low", "--control-fd", "3"], "low"),
        (["-c", "--gentle"], ""),
    ],
)
def test_the_priority_is_read_without_a_parser(arguments: list[str], priority: str) -> None:
    assert priority_of(arguments) == priority


def low_threads(pid: int) -> int:
    """Return how many threads of a process are below the others."""
    count = 0
    for file in Path(f"/proc/{pid}/task").glob("*/stat"):
        fields = file.read_text().rpartition(")")[2].split()
        count += int(fields[16]) > 0 or int(fields[38]) == os.SCHED_IDLE
    return count


@pytest.mark.parametrize("gentle", [IDLE, LOW])
def test_the_threads_of_a_runtime_serve_at_full_priority(rig: Rig, gentle: str) -> None:
    bundle = bundle_bytes(classifier_onnx())
    found: list[int] = []
    for threads in (1, 4):
        worker = rig.start(bundle, gentle=gentle, threads=threads)
        worker.serve()
        pid = worker.link.pid
        assert os.sched_getscheduler(pid) == os.SCHED_OTHER
        assert os.getpriority(os.PRIO_PROCESS, pid) == os.getpriority(os.PRIO_PROCESS, 0)
        assert os.sched_getaffinity(pid) == os.sched_getaffinity(0)
        end = time.monotonic() + WAIT_S
        # what numpy makes for itself when it is imported may stay low, what makes an inference may not; and a thread whose work is done
        # may need a while for its end, low as it is
        while found and low_threads(pid) > found[0] and time.monotonic() < end:
            time.sleep(0.05)
        found.append(low_threads(pid))
        worker.drain()
    assert found[1] <= found[0]


def test_little_is_imported_before_a_worker_gives_way() -> None:
    heavy = {
        "edgefleet_agent.worker.control.protocol",
        "msgspec",
        "numpy",
        "argparse",
        "logging",
        "asyncio",
        "socket",
        "re",
    }
    code = "import sys; before = set(sys.modules); import edgefleet_agent.worker.__main__; print(*set(sys.modules) - before)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "edgefleet_agent.worker.control.start_priority" in loaded
    assert not heavy & set(loaded)
