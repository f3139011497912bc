"""Batches on a schedule on a device: real children that ask a real worker, files of answers, restarts, and what the server hears."""

import argparse
import errno
import json
import os
import shlex
import signal
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from edgefleet_agent.batch_runs.service import BatchRuns, ChildOptions, zone
from edgefleet_agent.cli.infer import run_infer
from edgefleet_agent.cli.infer_args import add_infer_parser
from edgefleet_agent.cli.status_text import schedule_lines
from edgefleet_agent.core.loop import Loop
from edgefleet_agent.inputs import scheduled_run
from edgefleet_agent.serving.worker_process import Worker
from edgefleet_agent.worker.control.protocol import KnownSchedule, Serving
from edgefleet_protocol.messages import EventKind
from edgefleet_protocol.run_schedule import plan_of
from tests.agent.inputs.test_inputs import side
from tests.agent.worker.conftest import Rig
from tests.agent.worker.models import bundle_bytes, classifier_onnx
from tests.agent.worker.test_api import COLUMNS
from tests.house.pages import shell_blocks

NOON_S = int(datetime(2026, 6, 1, 12, tzinfo=UTC).timestamp())
BODY = b'{"every": "1h"}'


class Clock:
    """A clock by hand; its monotonic time follows."""

    def __init__(self) -> None:
        self.now_s = NOON_S + 1.0

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.now_s, UTC)

    def monotonic_s(self) -> float:
        return self.now_s


class Field:
    """The part of agentd under test, with its loop."""

    def __init__(self, folder: Path, socket: Path, clock: Clock) -> None:
        self.events: list[tuple[Any, ...]] = []
        self.clock, self.changes = clock, 0
        self.models = {"digits"}
        self.loop = Loop(clock)
        self.runs = BatchRuns(
            self.loop, clock, folder, ChildOptions((), socket), lambda *said: self.events.append(said), self._changed,
            lambda: None,
        )  # fmt: skip

    def _changed(self) -> None:
        self.changes += 1

    def serve(self, body: bytes, model: str = "digits", candidate: object = None) -> None:
        worker = cast("Worker", SimpleNamespace(model=model, candidate=candidate, schedule=b""))
        assert not body or self.runs.hear(worker, KnownSchedule(body=body))
        assert not self.runs.hear(worker, Serving())
        self.runs.tick(self.models)

    def pass_time(self, seconds: float) -> None:
        self.clock.now_s += seconds
        self.runs.tick(self.models)

    def until_idle(self) -> None:
        for _ in range(3_000):
            if self.status()["state"] != "running":
                return
            self.loop.call_later(0, self.loop.stop)
            self.loop.run()
            os.sched_yield()
            signal.sigtimedwait([], 0.01)
        raise AssertionError("the run does not end")

    def status(self, model: str = "digits") -> dict[str, Any]:
        return cast("dict[str, Any]", self.runs.status()[model])

    def close(self) -> None:
        self.runs.close()
        self.loop.close()


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """One model of table rows, whose bundle has a schedule."""
    rig = Rig(tmp_path_factory.mktemp("runs"))
    rig.start(bundle_bytes(classifier_onnx(), extra=side(COLUMNS) | {"schedule.json": BODY})).serve()
    yield rig
    rig.close()


def rows(folder: Path, name: str = "rows.csv", text: str = "a,b,c,d\n0,0,9,0\n9,0,0,0\n") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)


def test_a_worker_says_the_schedule_of_its_bundle(device: Rig) -> None:
    assert KnownSchedule(body=BODY) in device.workers[0].messages


def test_a_run_asks_the_model_and_leaves_one_file_of_answers(device: Rig, tmp_path: Path) -> None:
    field = Field(tmp_path, device.socket_path, Clock())
    field.serve(BODY)
    rows(tmp_path / "digits" / "in")
    field.pass_time(3_600)
    assert field.status()["state"] == "running"
    field.until_idle()
    (file,) = (tmp_path / "digits" / "out").glob("*.jsonl")
    assert file.name == "20260601T130000Z.jsonl"
    (answer,) = [json.loads(line) for line in file.read_text().splitlines()]
    assert (answer["input"], answer["planned_s"], len(answer["predictions"])) == ("rows.csv", NOON_S + 3600, 2)
    assert answer["trace_id"] == "rows@20260601T130000Z"
    assert field.status() == {
        "due_s": NOON_S + 7200, "ok_s": NOON_S + 3600, "runs": 1, "failed": 0, "late": 0, "missed": 0, "code": "",
        "reason": "", "every": "1h", "state": "ok",
    }  # fmt: skip
    assert field.events == []
    field.close()


def test_a_run_that_a_power_cut_ends_is_repeated_into_the_same_file(device: Rig, tmp_path: Path) -> None:
    clock = Clock()
    field = Field(tmp_path, device.socket_path, clock)
    field.serve(BODY)
    rows(tmp_path / "digits" / "in")
    field.pass_time(3_600)
    field.close()
    again = Field(tmp_path, device.socket_path, clock)
    again.pass_time(40)
    assert again.status()["state"] == "running", "before the worker has said anything"
    again.until_idle()
    assert [file.name for file in (tmp_path / "digits" / "out").glob("*.jsonl")] == ["20260601T130000Z.jsonl"]
    assert (again.status()["runs"], again.status()["missed"]) == (1, 0)
    again.close()


def test_failed_and_missed_runs_are_told_once_an_hour(device: Rig, tmp_path: Path) -> None:
    field = Field(tmp_path, device.socket_path, Clock())
    field.serve(b'{"every": "10m", "input": "sales.csv"}')
    for _ in range(3):
        field.pass_time(600)
        field.until_idle()
    (told,) = field.events
    assert told[:3] == (EventKind.RUN_FAILED, "digits", "run.no_input")
    assert "sales.csv" in told[3]
    assert (field.status()["failed"], field.status()["state"], field.status()["code"]) == (3, "failed", "run.no_input")
    rows(tmp_path / "digits", "sales.csv")
    field.pass_time(6_000)
    field.until_idle()
    assert [one[0] for one in field.events[1:]] == [EventKind.RUN_MISSED]
    assert field.events[1][3:] == (
        "9 planned runs missed", {"n": 9, "due_s": field.status()["due_s"], "ok_s": 0, "missed": 9},
    )  # fmt: skip
    assert field.status()["state"] == "ok"
    field.close()


def test_inputs_that_cannot_be_answered_fail_the_run_and_are_in_the_file(device: Rig, tmp_path: Path) -> None:
    field = Field(tmp_path, device.socket_path, Clock())
    field.serve(b'{"every": "1h", "keep": 1}')
    rows(tmp_path / "digits" / "in")
    rows(tmp_path / "digits" / "in", "short.csv", "a,b\n1,2\n")
    for _ in range(2):
        field.pass_time(3_600)
        field.until_idle()
    (file,) = (tmp_path / "digits" / "out").glob("*.jsonl")
    assert file.name == "20260601T140000Z.jsonl", "only one file is kept"
    assert ["error" in json.loads(line) for line in file.read_text().splitlines()] == [False, True]
    assert field.status()["reason"] == "1 of 2 inputs could not be answered"
    field.close()


def test_what_serves_counts_and_not_what_is_on_trial(tmp_path: Path) -> None:
    field = Field(tmp_path, tmp_path / "none.sock", Clock())
    field.serve(BODY, candidate=object())
    assert field.runs.facts() == {}
    field.serve(BODY)
    assert field.runs.facts()["schedules"]["digits"]["due_s"] == NOON_S + 3600
    field.serve(b'{"every": "1d"}')
    assert field.status()["every"] == "1d"
    field.serve(b'{"every": "soon"}')
    assert field.runs.status() == {}, "of a newer server"
    field.serve(BODY)
    field.serve(b"")
    assert field.runs.status() == {}
    field.serve(BODY)
    field.models = set()
    field.pass_time(1)
    assert field.runs.status() == {}, "the model left the device"
    assert Field(tmp_path, tmp_path / "none.sock", Clock()).runs.status() == {}
    field.close()


def test_a_record_that_a_disk_spoiled_is_said_again_by_the_worker(tmp_path: Path) -> None:
    field = Field(tmp_path, tmp_path / "none.sock", Clock())
    field.serve(BODY)
    (tmp_path / "digits" / ".state").write_bytes(b"torn")
    again = Field(tmp_path, tmp_path / "none.sock", Clock())
    assert again.runs.status() == {}
    again.serve(BODY)
    assert again.status()["every"] == "1h"


def test_the_status_says_how_a_schedule_stands() -> None:
    known = {
        "due_s": NOON_S, "ok_s": NOON_S - 3600, "runs": 8, "failed": 1, "late": 2, "missed": 4, "code": "run.no_input",
        "reason": "there is no sales.csv", "every": "1h", "state": "failed", "zone": "Mars/Phobos",
    }  # fmt: skip
    assert schedule_lines(known) == [
        "runs: each 1h, next 06-01 12:00Z; 8 since it came, 1 failed, 4 missed, 2 late",
        "run.no_input: there is no sales.csv",
        "time zone Mars/Phobos is not known here: planned in UTC",
    ]
    assert schedule_lines(None) == []
    assert "waits until the clock is set" in schedule_lines({**known, "state": "waiting"})[0]


def test_zones() -> None:
    assert zone("UTC") is UTC
    assert str(zone("Europe/Berlin")) == "Europe/Berlin"
    assert zone("Mars/Phobos") is None
    assert zone("../etc/passwd") is None


def run(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    add_infer_parser(parser.add_subparsers())
    return run_infer(parser.parse_args(["infer", "digits", *arguments]))


def test_the_command_runs_at_planned_times_and_goes_on_where_it_was(
    device: Rig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows(tmp_path / "in")
    asked = (str(tmp_path / "in"), "--every", "1s", "--out", str(tmp_path / "out"), "--socket", str(device.socket_path))
    assert run(*asked, "--runs", "2", "-o", "json") == 0
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["answered"] for one in told] == [1, 1]
    assert told[1]["planned_s"] > told[0]["planned_s"]
    assert len(list((tmp_path / "out").glob("*.jsonl"))) == 2
    assert run(*asked, "--runs", "1") == 0
    assert "1 inputs answered" in capsys.readouterr().out
    assert len(list((tmp_path / "out").glob("*.jsonl"))) == 3


def test_the_commands_of_the_page_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = [one for one in shell_blocks(Path("docs/how-to/infer-on-a-schedule.md")) if one.language == "sh"]
    asked: list[argparse.Namespace] = []

    def noted(args: argparse.Namespace) -> int:
        asked.append(args)
        return 0

    monkeypatch.setattr(scheduled_run, "run_scheduled", noted)
    for line in block.text.splitlines():
        assert run(*shlex.split(line)[3:]) == 0
    assert [plan_of(args.every).next_s(NOON_S) - NOON_S for args in asked] == [900, 18 * 3600]
    assert [(args.inputs, args.out, args.runs) for args in asked] == [
        (["sales.csv"], Path("forecasts"), 0), (["sales.csv"], Path("forecasts"), 5),
    ]  # fmt: skip


def test_the_command_refuses_what_is_no_schedule(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("x.csv", "--every", "soon", "--out", str(tmp_path), "--url", "http://127.0.0.1:9") == 2
    assert "five fields of cron" in capsys.readouterr().err
    assert run("x.csv", "--every", "15m", "--url", "http://127.0.0.1:9") == 2


def test_a_full_disk_begins_no_run_and_stops_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    field = Field(tmp_path, tmp_path / "none.sock", Clock())

    def full(*_given: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as during:
        during.setattr("edgefleet_agent.batch_runs.service.write_record", full)
        field.serve(BODY)
        field.pass_time(3_600)
        assert (field.status()["state"], field.status()["runs"]) == ("ok", 0)
    field.pass_time(1)
    assert field.status()["state"] == "running", "its planned time is not over"
    field.close()
