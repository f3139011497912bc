"""What rollouts, stages and devices wait for, in words."""

from __future__ import annotations

from edgefleet_cli.core.api.rollout import Rollout, RolloutDevice, Stage
from edgefleet_cli.core.transport.reply import struct_of
from edgefleet_cli.rollout.render import MOST_WAITS, device_wait, reason_text, stage_lines

WAIT = {
    "code": "rate",
    "count": 200,
    "reason": "the stage goes at 100 devices a minute; 40 were offered it in this one",
    "moves": "time: lower ranks go first",
    "until": "2026-11-25T12:01:00Z",
    "text": "200 devices waiting: the stage goes at 100 devices a minute; 40 were offered it in this one",
    "next": "",
    "at": "until",
}


def test_a_stage_says_how_fast_it_goes_and_what_its_devices_wait_for() -> None:
    rate = {"per_min": 100, "offered": 40, "failed": 0, "next_per_min": 200, "until": "2026-11-25T12:01:00Z"}
    first, second = stage_lines(struct_of({"rate": rate, "waits": [WAIT]}, Stage))
    assert first == "100 a minute, 40 offered in this minute; then 200"
    assert second == (
        "200 devices waiting: the stage goes at 100 devices a minute; 40 were offered it in this one until 2026-11-25 12:01:00"
    )


def test_what_comes_next_is_a_step_and_its_time() -> None:
    wait = {
        **WAIT,
        "text": "1 device has not accepted its offer yet",
        "next": "its report, or it counts as unreachable",
    }
    assert stage_lines(struct_of({"waits": [{**wait, "at": "at"}]}, Stage)) == [
        "1 device has not accepted its offer yet. Next: its report, or it counts as unreachable at 2026-11-25 12:01:00"
    ]


def test_a_running_rollout_says_when_it_decides_next() -> None:
    running = {"reason": "Soaking: 4 of 8, 2 healthy", "outlook": {"next_decision_at": "2026-11-25T20:52:00Z"}}
    assert reason_text(struct_of(running, Rollout)) == "Soaking: 4 of 8, 2 healthy, next decision 2026-11-25 20:52:00"
    assert reason_text(struct_of({"reason": "paused by ann"}, Rollout)) == "paused by ann"


def test_nothing_is_said_where_nothing_waits() -> None:
    assert stage_lines(struct_of({}, Stage)) == []
    assert stage_lines(struct_of({"rate": {"per_min": 5, "offered": 5, "next_per_min": 5}, "waits": []}, Stage)) == []
    assert device_wait(struct_of({"waits_for": "", "until": None}, RolloutDevice)) == "-"


def test_many_reasons_are_cut_short() -> None:
    told = stage_lines(struct_of({"waits": [WAIT] * (MOST_WAITS + 2)}, Stage))
    assert len(told) == MOST_WAITS + 1
    assert told[-1] == "and 2 more reasons"


def test_a_device_says_what_it_waits_for_and_when_that_is() -> None:
    told = device_wait(
        struct_of({"waits_for": "outside of its window", "until": "2026-11-26T00:00:00Z"}, RolloutDevice)
    )
    assert told.startswith("outside of its window (2026-11-26")
