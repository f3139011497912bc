"""What devices report of schedules, in words; a device may say anything."""

from typing import Any

import pytest

from edgefleet_terms.planned_runs import run_texts

KNOWN = {
    "every": "1h", "state": "failed", "due_s": 1_780_318_800, "ok_s": 1_780_300_800, "runs": 8, "failed": 1, "late": 0, "missed": 4,
    "code": "run.no_input", "reason": "there is no sales.csv",
}  # fmt: skip


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({}, "each 1h; next 2026-06-01 13:00 UTC; 8 runs, 1 failed, 4 missed; the last one failed, run.no_input: there is no sales.csv"),
        ({"state": "running", "code": ""}, "each 1h; runs now; 8 runs, 1 failed, 4 missed"),
        ({"state": "waiting", "code": ""}, "each 1h; waits until the clock is set; 8 runs, 1 failed, 4 missed"),
        (
            {"due_s": 0, "code": "", "failed": 0, "missed": -1, "zone": "Mars/Phobos"},
            "each 1h; not planned yet; 8 runs; the device does not know the zone Mars/Phobos and plans in UTC",
        ),
    ],
)  # fmt: skip
def test_a_schedule_in_words(said: dict[str, Any], words: str) -> None:
    assert run_texts({"schedules": {"demand": {**KNOWN, **said}}}) == {"demand": words}


@pytest.mark.parametrize("said", [None, [], 3, {"demand": 1}, {"demand": []}])
def test_what_is_no_schedule_is_left_out(said: Any) -> None:
    assert run_texts({"schedules": said} if said is not None else {}) == {}


def test_odd_values_are_no_crash() -> None:
    odd: dict[str, Any] = {"every": None, "due_s": 10**30, "runs": "many", "code": 5, "reason": {}}
    assert run_texts({"schedules": {"m": odd}})["m"].startswith("each None; not planned yet; 0 runs")
