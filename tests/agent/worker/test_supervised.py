"""Workers under the agent's supervision: swaps, kills, replacement, one that stays. Full counts: `./dev soak swaps`, `worker-kill`."""

import itertools
import os
import signal
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from edgefleet_agent.paths import StatePaths
from edgefleet_agent.serving import supervisor
from tests.agent.field import eventually
from tests.agent.worker import kills, swaps
from tests.agent.worker.models import bundle_bytes, classifier_onnx
from tests.agent.worker.supervised import WAIT_S, House, answers, asking

SEED = 5


def test_no_request_is_lost_in_swaps_beside_a_second_model() -> None:
    report = swaps.main(3, SEED, rate=100.0)
    assert report["ok"], report
    assert report["requests"] > 200
    assert report["requests_steady"] > 50  # or the latencies of swaps would be held against next to nothing


def test_a_killed_worker_is_back_and_agentd_stays() -> None:
    report = kills.main(3, SEED)
    assert report["ok"], report
    assert (report["lost"], report["agentd_restarts"]) == (0, 0)


def test_a_worker_is_replaced_by_another_of_its_slot_without_a_lost_request(tmp_path: Path) -> None:
    house = House(tmp_path)
    try:
        house.serve("digits", house.put("digits", "A", "1", bundle_bytes(classifier_onnx(), version="1")))
        before = house.do(house.serving.pids)["digits"]
        with asking(house.port, 100.0, 1, tmp_path / "answers", "digits"):
            time.sleep(0.5)
            assert house.do(lambda: house.serving.recycle("digits", "it leaks"))
            assert not house.do(lambda: house.serving.recycle("digits", "again"))  # one at a time
            house.wait_for("serving", "digits")
            time.sleep(0.5)
        after = house.do(house.serving.pids)["digits"]
        found = answers(tmp_path / "answers")
        assert before != after
        assert {(row[1], row[2]) for row in found} == {("1", 200)}
        assert house.do(lambda: not house.serving.recycle("ghost", "it is none"))
        # a trial that begins meanwhile goes before
        assert house.do(lambda: house.serving.recycle("digits", "it leaks"))
        house.swap("digits", house.put("digits", "B", "2", bundle_bytes(classifier_onnx(2.0), version="2")))
        assert house.do(house.serving.pids)["digits"] not in {before, after}
    finally:
        house.close()


def test_what_a_version_answered_before_a_swap_is_told_too(tmp_path: Path) -> None:
    house = House(tmp_path)
    try:
        house.serve("digits", house.put("digits", "A", "1", bundle_bytes(classifier_onnx(), version="1")))
        with asking(house.port, 100.0, 1, tmp_path / "answers", "digits"):
            time.sleep(0.3)
            house.swap("digits", house.put("digits", "B", "2", bundle_bytes(classifier_onnx(2.0), version="2")))
            time.sleep(0.3)
        house.do(house.serving.ask_stats)
        given = Counter(row[1] for row in answers(tmp_path / "answers"))
        assert given["1"] > 0 < given["2"]
        told: Counter[str] = Counter()

        def all_told() -> bool:
            told.update({sums.version: sums.n for _, sums in house.do(lambda: list(house.serving.take_sums()))})
            return told == given

        assert eventually(all_told), (told, given)
    finally:
        house.close()


def test_a_wait_ends_at_its_time_whatever_else_happens_and_says_what_did(tmp_path: Path) -> None:
    house = House(tmp_path, command=(sys.executable, "-c", "import sys; sys.exit(7)"))
    try:
        house.wait_s = 3.0
        began = time.monotonic()
        with pytest.raises(
            AssertionError, match=r"no 'serving' of digits within 3 s; instead: .* x exit digits exit status 7"
        ):
            house.serve("digits", house.put("digits", "A", "1", b"no bundle"))
        assert time.monotonic() - began < 2 * house.wait_s
    finally:
        house.close()


def test_workers_serve_from_a_folder_with_a_long_path_and_leave_nothing(tmp_path: Path) -> None:
    house = House(tmp_path / ("d" * 100))
    sockets = StatePaths(tmp_path / ("d" * 100)).sockets()
    try:
        house.serve("digits", house.put("digits", "A", "1", bundle_bytes(classifier_onnx(), version="1")))
        assert list(sockets.glob("*.sock"))
    finally:
        house.close()
    assert not sockets.exists()


def interpreter(folder: Path, before: str) -> tuple[str, ...]:
    """Return a command that notes each start in `starts`, does `before` when it is to load where a core idles, and runs Python."""
    script = folder / "python"
    script.write_text(
        f'#!/bin/sh\necho "$*" >> {folder}/starts\n'
        f'case "$*" in *"--gentle idle"*) {before};; esac\nexec {sys.executable} "$@"\n'
    )
    script.chmod(0o755)
    return (str(script),)


def starts(folder: Path) -> list[str]:
    """Return how each worker was to be loaded."""
    return [line.partition("--gentle ")[2] for line in (folder / "starts").read_text().splitlines()]


def test_a_new_version_that_gets_no_core_is_started_anew_with_a_share_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "PATIENCE_S", 0.3)
    house = House(tmp_path, command=interpreter(tmp_path, "exec sleep 1000"))
    try:
        house.serve("digits", house.put("digits", "A", "1", bundle_bytes(classifier_onnx(), version="1")))
        house.swap("digits", house.put("digits", "B", "2", bundle_bytes(classifier_onnx(2.0), version="2")))
        assert starts(tmp_path) == ["", "idle", "low"]
        # the same for one that takes the place of one that leaks
        pid = house.do(house.serving.pids)["digits"]
        assert house.do(lambda: house.serving.recycle("digits", "it leaks"))
        house.wait_for("serving", "digits")
        assert house.do(house.serving.pids)["digits"] != pid
        assert starts(tmp_path) == ["", "idle", "low", "idle", "low"]
        assert house.happened.empty()  # nobody was told of an end of a trial
    finally:
        house.close()


def test_a_new_version_that_gets_no_core_any_more_is_started_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "PATIENCE_S", 0.2)
    monkeypatch.setattr(
        supervisor, "cpu_s", lambda _pid: 0.06
    )  # enough for the first look, nothing since for the second
    house = House(tmp_path, command=interpreter(tmp_path, "exec sleep 1000"))
    try:
        house.serve("digits", house.put("digits", "A", "1", bundle_bytes(classifier_onnx(), version="1")))
        house.swap("digits", house.put("digits", "B", "2", bundle_bytes(classifier_onnx(2.0), version="2")))
        assert starts(tmp_path) == ["", "idle", "low"]
    finally:
        house.close()


def test_a_new_version_that_takes_long_to_load_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = itertools.count()
    monkeypatch.setattr(supervisor, "PATIENCE_S", 0.2)
    monkeypatch.setattr(supervisor, "cpu_s", lambda _pid: 0.06 * next(looks) + 0.06)
    house = House(tmp_path, command=interpreter(tmp_path, "sleep 1"))
    try:
        house.serve("digits", house.put("digits", "A", "1", bundle_bytes(classifier_onnx(), version="1")))
        house.swap("digits", house.put("digits", "B", "2", bundle_bytes(classifier_onnx(2.0), version="2")))
        assert starts(tmp_path) == ["", "idle"]
        assert next(looks) > 1
    finally:
        house.close()


def test_a_worker_that_does_not_leave_is_killed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    house = House(tmp_path)
    gone = []
    try:
        house.serve("digits", house.put("digits", "A", "1", bundle_bytes(classifier_onnx(), version="1")))
        pid = house.do(house.serving.pids)["digits"]
        os.kill(pid, signal.SIGSTOP)  # it hears neither the drain nor SIGTERM
        house.do(lambda: house.serving.leave(0.1, lambda: gone.append(time.monotonic())))
        until = time.monotonic() + WAIT_S
        while not gone and time.monotonic() < until:
            time.sleep(0.1)
        assert gone
        assert not Path(f"/proc/{pid}").exists()
    finally:
        house.close()
