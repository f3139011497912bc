"""Watching a rollout: every change once, the exit code of its end, a server that is away, and a terminal."""

from __future__ import annotations

import csv
import io
import json
import re
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml

from edgefleet_cli.core.api.rollout import Rollout
from edgefleet_cli.core.errors import ServerUnreachableError, UntrustedServerError
from edgefleet_cli.core.options import Format
from edgefleet_cli.core.transport.api_client import ApiClient
from edgefleet_cli.core.transport.reply import Reply, struct_of
from edgefleet_cli.render.output import Output
from edgefleet_cli.rollout.client import AWAY_S, POLL_S, Rollouts
from edgefleet_cli.rollout.render import exit_code
from tests.cli.conftest import Edgectl
from tests.cli.fleet_stub import (
    SteppedClock,
    Stub,
    counts,
    device,
    page,
    plan,
    problem,
    rollout,
    unknown_server,
)
from tests.cli.terminal import Terminal

_ID = "r-7f3a9c"
_AT = f"/rollouts/{_ID}"
_DONE = rollout(state="finished", reason="every stage passed in every stratum")
_PAUSED = rollout(state="paused", reason="by ana: odd")


def _watched(
    fleet: Stub, first: Any, *, form: Format = Format.JSON, wait_s: float | None = None
) -> tuple[Any, SteppedClock]:
    clock = SteppedClock()
    with ApiClient(fleet.url, "edg_test") as api:
        return Rollouts(api, Output(form), clock).watch(Reply(first, Rollout), wait_s=wait_s).raw, clock


def test_each_change_is_one_line_of_json(fleet: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    exposing = rollout(counts=counts(exposed=1, pending=1))
    fleet.says(f"GET {_AT}", exposing, exposing, rollout(), rollout(), rollout(), _DONE)
    last, clock = _watched(fleet, exposing)
    assert last == _DONE
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [exposing, rollout(), _DONE]
    assert clock.elapsed_s == 6 * POLL_S


def test_a_paused_rollout_is_watched_on_and_says_once_what_can_be_done(
    fleet: Stub, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet.says(f"GET {_AT}", _PAUSED, _PAUSED, rollout(), _DONE)
    last, _ = _watched(fleet, rollout())
    assert last == _DONE
    said = capsys.readouterr()
    assert [json.loads(line)["state"] for line in said.out.splitlines()] == ["running", "paused", "running", "finished"]
    assert said.err.count(f"edgectl rollout resume {_ID}") == 1


@pytest.mark.parametrize(
    ("state", "is_partial", "code"),
    [
        ("finished", False, 0),
        ("finished", True, 7),
        ("rolled_back", False, 7),
        ("rollback_incomplete", False, 7),
        ("cancelled", False, 7),
        ("superseded", False, 7),
        ("running", False, 8),
        ("paused", False, 8),
        ("rolling_back", False, 8),
        ("regressed", False, 7),
        ("awaiting_approval", False, 8),
    ],
)
def test_exit_codes_of_states(state: str, is_partial: bool, code: int) -> None:
    assert exit_code(struct_of(rollout(state=state, is_partial=is_partial), Rollout)) == code


@pytest.mark.parametrize(
    ("end", "code"), [(_DONE, 0), (rollout(state="rolled_back"), 7), (rollout(is_partial=True), 8)]
)
def test_the_command_exits_by_the_end(edgectl: Edgectl, fleet: Stub, end: Any, code: int) -> None:
    fleet.says(f"GET {_AT}", rollout(), end)
    ran = edgectl("rollout", "watch", _ID, "--timeout", "1s", "-o", "json")
    assert ran.code == code, ran.err
    assert json.loads(ran.out.splitlines()[-1]) == end
    if code == 8:
        assert "the rollout continues" in ran.err
    if code == 7:
        assert f"edgectl rollout explain {_ID}" in ran.err


def test_time_is_up_without_a_poll_too_many(fleet: Stub) -> None:
    fleet.says(f"GET {_AT}", rollout())
    last, clock = _watched(fleet, rollout(), wait_s=1.2)
    assert last == rollout()
    assert clock.elapsed_s == pytest.approx(1.2)


def test_a_restart_of_the_server_is_outlived(fleet: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    away = problem(503, "server.database_unavailable", "the database is away")
    fleet.says(f"GET {_AT}", rollout(), away, away, (502, {}), _DONE)
    last, clock = _watched(fleet, rollout())
    assert last == _DONE
    err = capsys.readouterr().err
    assert err.count("trying again") == err.count("the server answers again") == 1
    assert clock.elapsed_s == 5 * POLL_S + 1 + 2 + 4


def test_a_server_that_stays_away_is_given_up(fleet: Stub) -> None:
    fleet.says(f"GET {_AT}", None)
    clock = SteppedClock()
    with ApiClient(fleet.url, "edg_test") as api, pytest.raises(ServerUnreachableError):
        Rollouts(api, Output(Format.JSON), clock).watch(Reply(rollout(), Rollout))
    assert AWAY_S <= clock.elapsed_s <= AWAY_S + 12


def test_a_rollout_that_is_gone_ends_the_watch(edgectl: Edgectl, fleet: Stub) -> None:
    fleet.says(f"GET {_AT}", rollout(), problem(404, "rollout.unknown", "no rollout has this id"))
    ran = edgectl("rollout", "watch", _ID, "-o", "json")
    assert ran.code == 5
    assert len(ran.out.splitlines()) == 1


def test_other_formats_are_streams_too(fleet: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    for form in (Format.YAML, Format.CSV, Format.NAME, Format.TABLE):
        fleet.says(f"GET {_AT}", rollout(), _PAUSED, _DONE)
        _watched(fleet, rollout(), form=form)
        out = capsys.readouterr().out
        if form is Format.YAML:
            assert list(yaml.safe_load_all(out)) == [rollout(), _PAUSED, _DONE]
        elif form is Format.CSV:
            assert [row["state"] for row in csv.DictReader(io.StringIO(out))] == ["running", "paused", "finished"]
        elif form is Format.NAME:
            assert out == f"{_ID}\n"
        else:
            assert [re.sub(r"[,:].*", "", line) for line in out.splitlines()] == [
                f"{_ID} digits@1.1.0 {state}" for state in ("running", "paused", "finished")
            ]


def test_create_wait_is_watch(edgectl: Edgectl, fleet: Stub) -> None:
    fleet.says("POST /rollouts", (201, rollout()))
    fleet.says(f"GET {_AT}", rollout(state="rolled_back"))
    ran = edgectl("rollout", "create", "digits@1.1.0", "--to", "", "--wait", "-o", "json")
    assert ran.code == 7
    assert [json.loads(line)["state"] for line in ran.out.splitlines()] == ["running", "rolled_back"]
    fleet.says("POST /rollouts", (201, _DONE))
    assert (
        edgectl("deploy", "digits@1.1.0", "--to", "", "--strategy", "canary", "--wait", "-o", "name").out == f"{_ID}\n"
    )


def test_control_can_be_watched_on(edgectl: Edgectl, fleet: Stub) -> None:
    fleet.says(f"GET {_AT}", rollout(), rollout(state="rolled_back"))
    fleet.says(f"POST {_AT}:abort", rollout(state="rolling_back"))
    fleet.says(f"POST {_AT}:promote", _DONE)
    aborted = edgectl("rollout", "abort", _ID, "--rollback", "--yes", "--wait", "-o", "json")
    assert aborted.code == 0, "it ended as asked for"
    fleet.says(f"GET {_AT}", rollout(state="rollback_incomplete"))
    assert edgectl("rollout", "abort", _ID, "--rollback", "--yes", "--wait", "-o", "json").code == 7
    assert edgectl("rollout", "promote", _ID, "--reason", "r", "--wait", "-o", "json").code == 0


def test_a_terminal_gets_a_tree_that_is_drawn_anew(fleet: Stub) -> None:
    failed = [device("device-02", state="failed", error_class="nonfinite", reason="3 of 20 answers were not finite")]
    over = rollout(state="rolled_back", reason="nonfinite on device-02", counts=counts(exposed=1, failed=1))
    fleet.says(f"GET {_AT}", rollout(), rollout(), _PAUSED, _PAUSED, over)
    fleet.says(f"GET {_AT}/devices", page(failed), page([]))
    terminal = Terminal(fleet, "rollout", "watch", _ID)
    code = terminal.end()
    assert code == 7
    lines = terminal.shown.splitlines()
    assert "{" not in terminal.shown
    assert sum("digits@1.1.0  running" in line for line in lines) == 1
    assert sum("digits@1.1.0  paused" in line for line in lines) == 1
    assert f"edgectl rollout resume {_ID}" in " ".join(terminal.shown.split())
    assert "digits@1.1.0  rolled back" in terminal.shown
    assert terminal.shown.count("digits@1.1.0  rolled back") == 1, "the last frame is written once"
    assert not any("digits@1.1.0  running" in line for line in terminal.lines), "earlier ones are drawn over"
    assert "nonfinite: 3 of" in terminal.shown
    assert max(len(line) for line in lines if "◐" in line or "┄" in line) <= 80


def test_create_wait_on_a_terminal_shows_the_plan_first(fleet: Stub) -> None:
    fleet.says("POST /rollouts", (201, rollout()))
    fleet.says(f"GET {_AT}/plan", plan())
    fleet.says(f"GET {_AT}", _DONE)
    terminal = Terminal(fleet, "rollout", "create", "digits@1.1.0", "--to", "", "--wait")
    assert terminal.end() == 0
    assert terminal.shown.index("all_healthy") < terminal.shown.index("digits@1.1.0  finished")
    assert "digits@1.1.0  finished" in terminal.shown


def test_a_small_terminal_gets_each_frame_in_its_place_and_the_last_one_once(fleet: Stub) -> None:
    fleet.says(f"GET {_AT}", rollout(), rollout(), rollout(reason="still soaking"), _DONE)
    terminal = Terminal(fleet, "rollout", "watch", _ID, rows=12)
    assert terminal.end() == 0
    running, _, finished = terminal.shown.partition("digits@1.1.0  finished")
    assert "◐┄┄" in running
    assert sum("digits@1.1.0  finished" in line for line in terminal.lines) == 1
    assert sum("canary 1 per stratum" in line for line in terminal.lines) == 1
    assert finished, "it is written once"
    assert "digits@1.1.0  finished" not in finished


def test_ctrl_c_leaves_the_rollout_alone_and_exits_130(fleet: Stub) -> None:
    fleet.says(f"GET {_AT}", rollout())
    terminal = Terminal(fleet, "rollout", "watch", _ID)
    terminal.read_until("digits@1.1.0  running")
    terminal.process.send_signal(signal.SIGINT)
    assert terminal.end() == 130
    assert "the rollout continues" in terminal.shown
    assert "Traceback" not in terminal.shown


def test_a_terminal_that_moves_no_cursor_gets_a_line_at_each_change(fleet: Stub) -> None:
    fleet.says(f"GET {_AT}", rollout(), _DONE)
    terminal = Terminal(fleet, "rollout", "watch", _ID, kind="dumb")
    assert terminal.end() == 0
    assert [f"digits@1.1.0 {state}" in terminal.shown for state in ("running", "finished")] == [True, True]
    assert not terminal.has_escapes


def test_a_certificate_that_is_not_trusted_is_not_waited_for(tmp_path: Path) -> None:
    clock = SteppedClock()
    with unknown_server(tmp_path) as url, ApiClient(url, "edg_test") as api, pytest.raises(UntrustedServerError) as met:
        Rollouts(api, Output(Format.JSON), clock).watch(Reply(rollout(), Rollout))
    assert clock.elapsed_s <= POLL_S
    assert "certificate" in met.value.message
    assert "--ca" in met.value.next_step


def test_an_error_on_a_terminal_that_has_no_colours_has_none(fleet: Stub) -> None:
    fleet.says(f"GET {_AT}", problem(404, "rollout.unknown", "no such rollout"))
    terminal = Terminal(fleet, "rollout", "watch", _ID, kind="dumb")
    assert terminal.end() != 0
    assert "code: rollout.unknown" in terminal.shown
    assert not terminal.has_escapes


def test_abort_asks_on_a_terminal(fleet: Stub) -> None:
    fleet.says(f"GET {_AT}", rollout())
    fleet.says(f"POST {_AT}:abort", rollout(state="cancelled"))
    for answer, code in (("n", 3), ("y", 0)):
        terminal = Terminal(fleet, "rollout", "abort", _ID)
        terminal.read_until("[y/N]")
        assert "They keep it." in terminal.shown
        terminal.type(f"{answer}\n")
        assert terminal.end() == code
    assert len(fleet.bodies(f"POST {_AT}:abort")) == 1
