"""The demo's processes end with it, however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgefleet_cli.core.clock import SystemClock
from edgefleet_cli.demo.processes import ChildError, ProcessGroup

_SLEEPER = [sys.executable, "-c", "import time; time.sleep(600)"]
_STUBBORN = [
    sys.executable,
    "-c",
    "import signal,time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(600)",
]
_PARENT = [
    sys.executable,
    "-c",
    "import subprocess,sys,time; subprocess.Popen(sys.argv[1:]); time.sleep(600)",
    *_SLEEPER,
]


def _group_is_alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    states = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[2]) == group:
            states.append(fields[0])
    return any(state != "Z" for state in states)


def _await_gone(group: int) -> None:
    deadline = time.monotonic() + 30
    while _group_is_alive(group):
        assert time.monotonic() < deadline, f"process group {group} is still there"
        time.sleep(0.05)


def test_leaving_the_household_ends_children_and_grandchildren(tmp_path: Path) -> None:
    with ProcessGroup(tmp_path, SystemClock()) as home:
        groups = [home.start("one", _SLEEPER).process.pid, home.start("two", _PARENT).process.pid]
        home.check()
    for group in groups:
        _await_gone(group)


def test_a_child_that_died_is_reported_with_its_last_words(tmp_path: Path) -> None:
    with ProcessGroup(tmp_path, SystemClock()) as home:
        child = home.start("broken", [sys.executable, "-c", "print('the cause'); raise SystemExit(3)"])
        while not child.has_ended:
            time.sleep(0.01)
        with pytest.raises(ChildError, match="broken ended unexpectedly") as caught:
            home.check()
        assert caught.value.why == "the cause"


def test_a_failed_step_is_reported_with_its_last_words(tmp_path: Path) -> None:
    with ProcessGroup(tmp_path, SystemClock()) as home:
        child = home.start("step", [sys.executable, "-c", "raise SystemExit('bad key')"])
        with pytest.raises(ChildError, match="step failed") as caught:
            home.wait([child], 30.0)
        assert caught.value.why == "bad key"


def test_the_guard_ends_everything_when_the_demo_is_killed(tmp_path: Path) -> None:
    folder = tmp_path / "temporary"
    folder.mkdir()
    script = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from edgefleet_cli.core.clock import SystemClock\n"
        "from edgefleet_cli.demo.processes import ProcessGroup\n"
        f"home = ProcessGroup(Path({str(tmp_path)!r}), SystemClock())\n"
        f"home.remove_at_end(Path({str(folder)!r}))\n"
        f"print(home.start('a', {_SLEEPER!r}).process.pid, home.start('b', {_STUBBORN!r}).process.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    demo = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert demo.stdout is not None
    groups = [int(word) for word in demo.stdout.readline().split()]
    assert all(_group_is_alive(group) for group in groups)
    demo.send_signal(signal.SIGKILL)
    demo.communicate(timeout=10)
    for group in groups:
        _await_gone(group)
    deadline = time.monotonic() + 10
    while folder.exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
