"""Workers under the agent's supervision: swaps, kills, replacement, one that stays. Full counts: `./dev soak swaps`, `worker-kill`."""

import os
import signal
import time
from pathlib import Path

import pytest

from tests.agent.worker import kills, swaps
from tests.agent.worker.models import bundle_bytes, classifier_onnx
from tests.agent.worker.supervised import WAIT_S, House, answers, asking

SEED = 5


def test_no_request_is_lost_in_swaps_beside_a_second_model() -> None:
    report = swaps.main(5, SEED, rate=100.0)
    assert report["ok"], report
    assert report["requests"] > 200


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
