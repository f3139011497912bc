"""The pipeline of a rollout, as `rollout watch` and `top` draw it."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from edgefleet_cli.core.api.rollout import Rollout
from edgefleet_cli.core.transport.reply import struct_of
from edgefleet_cli.render.width import cut_runs
from edgefleet_cli.rollout.stage_pipeline import gauge, pipeline_text
from tests.cli.fleet_stub import NOON, cell, counts, rollout, stage

SOAK = {
    "code": "soak", "count": 1, "reason": "in its soak", "moves": "time: it soaks", "until": "2026-01-03T12:00:25Z",
    "text": "1 device waiting: healthy and soaking", "next": "", "at": "until",
}  # fmt: skip


def drawn(width: int = 80, **changes: Any) -> str:
    """Return the pipeline of a rollout as text."""
    console = Console(file=io.StringIO(), width=width, no_color=True)
    console.print(pipeline_text(struct_of(rollout(**changes), Rollout), NOON, width))
    written = console.file
    assert isinstance(written, io.StringIO)
    return "\n".join(line.rstrip() for line in written.getvalue().splitlines())


PIPELINE = """\
digits@1.1.0  running  2 of 2 have it, none failed
◐┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄○
canary 1 per stratum            rest 100 %
1 of 2 healthy                  of 8 devices
soaking, 25s left               pending
  ◐ generic-x86_64-ort: soaking, 25s left, 0 of 1 healthy
  ● generic-x86_64-ort-small: passed, 1 of 1 healthy
━━━━━━●┄┄┄┄┄┄┄┄┄┄┄┄┄┤ 0.87 of 100 to stop: evidence that it is worse (generic-x…
r-7f3a9c: stage canary is soaking
Waits for
  ◷ 1 device waiting: healthy and soaking until 12:00:25 (25s left)
    sooner: `edgectl rollout promote r-7f3a9c --reason R`"""


def test_stages_counts_time_left_evidence_and_what_it_waits_for() -> None:
    assert drawn(waits=[SOAK]) == PIPELINE


def test_a_narrow_terminal_gets_a_line_a_stage() -> None:
    lines = drawn(30).splitlines()
    assert lines[1:3] == ["◐ canary  1 of 2 healthy, soa…", "○ rest  of 8 devices, pending"]


@pytest.mark.parametrize("width", [20, 40, 80, 200])
def test_it_fits(width: int) -> None:
    assert max(map(len, drawn(width, waits=[SOAK]).splitlines())) <= width


@pytest.mark.parametrize("width", [20, 40, 80])
def test_a_long_name_gives_way_to_the_state_and_the_counts(width: int) -> None:
    head = drawn(width, release=f"{'m' * 63}@1.0.0").splitlines()[0]
    assert head.startswith("mmmmmm")
    assert "…  running" in head
    assert ("2 of 2 have it, none failed" in head) == (width >= 80)


def test_what_is_left_out_behind_a_full_row_is_said() -> None:
    assert cut_runs([("abc", ""), ("d", "")], 3) == [("ab…", "")]
    assert cut_runs([("abc", ""), ("  ", "")], 3) == [("abc", "")]


def test_a_paused_rollout_says_what_can_be_done() -> None:
    said = drawn(200, state="paused", reason="by ana: looks odd", waits=[SOAK])
    assert "r-7f3a9c: by ana: looks odd" in said
    assert "sooner:" not in said
    for verb in ("explain", "resume", "promote", "abort"):
        assert f"edgectl rollout {verb} r-7f3a9c" in said


def test_profiles_are_folded_unless_they_differ() -> None:
    same = [cell(name, state="soaking", counts=counts(exposed=2, healthy=2)) for name in ("a", "b")]
    assert "a: soaking" not in drawn(stages=[stage(0, "canary", same, state="soaking")])
    failed = cell("b", state="soaking", counts=counts(exposed=2, healthy=1, failed=1))
    lines = drawn(stages=[stage(0, "canary", [same[0], failed], state="soaking")]).splitlines()
    assert "b: soaking, 1 of 2 healthy, 1 failed" in lines[5]


def test_an_open_stage_counts_those_that_are_healthy_so_far() -> None:
    outlook = {"phase": "judging", "text": "Soak over: 2 of 2 healthy", "healthy": 2, "of": 2, "failed": 0}
    assert drawn(outlook=outlook).splitlines()[3].startswith("2 of 2 healthy  ")
    assert drawn(outlook=outlook | {"of": 3, "failed": 1}).splitlines()[3].startswith("2 of 3 healthy, 1 failed ")


def test_a_device_that_soaks_is_not_called_healthy() -> None:
    outlook = {"phase": "soaking", "text": "Soaking: 12 of 16", "soaking": 12, "healthy": 0, "of": 16, "failed": 0}
    assert drawn(outlook=outlook).splitlines()[3].startswith("12 of 16 soaking  ")
    mixed = outlook | {"healthy": 3, "failed": 1}
    assert drawn(100, outlook=mixed).splitlines()[3].startswith("12 of 16 soaking, 1 failed, 3")


def test_what_ended_waits_for_nothing_and_who_stopped_it_is_not_called_a_failure() -> None:
    by_hand = stage(0, "canary", [cell("a", state="failed", stopped_by="ana")], state="failed", stopped_by="ana")
    said = drawn(state="rolled_back", stopped_by="ana", stages=[by_hand], waits=[SOAK])
    assert "stopped by ana" in said
    assert "Waits for" not in said
    assert "✗" not in said


BACK = {
    "code": "turn", "count": 2, "reason": "is about to be sent back", "moves": "time", "until": None,
    "text": "2 devices are about to be sent back", "next": "", "at": "",
}  # fmt: skip


def test_an_undo_offers_what_is_true_there() -> None:
    gone = cell("a", state="failed", stopped_by="ana", e_abort=0.6, counts=counts(members=2, exposed=2, rolled_back=1))
    stages = [
        stage(
            0, "canary", [gone], state="failed", stopped_by="ana", counts=counts(members=2, exposed=2, rolled_back=1)
        ),
        stage(1, "rest", [cell("a")]),
    ]
    shape = {"stopped_by": "ana", "stages": stages, "counts": counts(members=2, exposed=2, rolled_back=1)}
    said = drawn(100, state="rolling_back", waits=[SOAK, BACK], **shape)
    assert "sooner:" not in said, "no stage is promoted while devices go back"
    assert said.count("which: `edgectl rollout devices r-7f3a9c`") == 2
    assert "to stop" not in said, "a person stopped it: nothing is to be proved any more"
    for words in ("2 of 2 had it, 1 back, none failed", "1 of 2 back", "never opened"):
        assert words in said
    over = drawn(100, state="rolled_back", **{**shape, "counts": counts(members=2, exposed=2, rolled_back=2)})
    assert "2 of 2 had it, 2 back, none failed" in over


def test_a_queued_rollout_has_no_stage_to_promote() -> None:
    queued = {**BACK, "code": "queue", "text": "Waits for r-1"}
    assert "sooner:" not in drawn(state="validating", stages=[stage(0, "canary", [cell("a")])], waits=[queued])


def test_words_get_the_room_that_they_need_and_what_went_back_had_it() -> None:
    bad = stage(
        0, "canary", [cell("a", counts=counts(exposed=2, failed=2))], state="failed", size_text="2 over all strata"
    )
    bad |= {"counts": counts(exposed=2, failed=2, members=2)}
    rest = [stage(1, "half", [], size_text="50 %"), stage(2, "rest", [], size_text="100 %")]
    lines = drawn(77, state="rolled_back", counts=counts(exposed=2, failed=2), stages=[bad, *rest]).splitlines()
    assert lines[0] == "digits@1.1.0  rolled back  2 of 2 had it, 0 back, 2 failed"
    assert lines[2].split("  ")[0] == "canary 2 over all strata"
    assert lines[3].rstrip() == "0 of 2 healthy, 2 failed"
    assert lines[1].index("○") == lines[2].index("half")
    assert lines[4].endswith("never opened")


def test_a_profile_without_a_device_is_not_called_healthy() -> None:
    cells = [cell("a", state="failed", counts=counts(exposed=2, failed=2)), cell("b", state="failed", counts=counts())]
    assert "b: failed, no device had it" in drawn(stages=[stage(0, "canary", cells, state="failed")])


def test_the_gauge() -> None:
    assert gauge(0.01, 100, 10) == "●┄┄┄┄┄┄┄┄┄┤"
    assert gauge(5000, 100, 10) == "━━━━━━━━━●┤"


def test_no_text_of_a_device_steers_the_terminal() -> None:
    evil = "\x1b]0;owned\x07\x1b[2J"
    shown = drawn(reason=evil, stages=[stage(0, evil, [cell(evil, state="failed", reason=evil)], state="failed")])
    assert not {"\x1b", "\x07"} & set(shown)
