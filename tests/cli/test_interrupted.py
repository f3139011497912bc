"""Ctrl-C in `edgectl convert`: everything ends at once, nothing half-written stays, and it is said."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgefleet_cli.core.api.release import Release
from edgefleet_cli.core.clock import SystemClock
from edgefleet_cli.core.transport.api_client import ApiClient
from edgefleet_cli.core.transport.reply import Reply
from edgefleet_cli.release.conversion.local_conversion import environment, follow, remove_unfinished
from edgefleet_cli.release.conversion.search_interrupt import SearchInterrupt
from edgefleet_cli.release.publisher import Publisher
from edgefleet_cli.render.output import Output
from edgefleet_cli.render.progress import Board
from tests.cli.fleet_stub import Stub
from tests.converters.crash_models import never_ending
from tests.support.processes import descendants, gone

PROFILE = "generic-x86_64-ort"


@pytest.fixture
def converting(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """`edgectl convert` of a model that never answers, with a file that it has half written in its folder."""
    (tmp_path / "m.onnx").write_bytes(never_ending().SerializeToString())
    out = tmp_path / "out"
    out.mkdir()
    (out / f"m-dev-{PROFILE}.bundle.part").write_bytes(b"half")
    command = [sys.executable, "-m", "edgefleet_cli.main", "convert", "m.onnx", "--profile", PROFILE, "--out", "out"]
    environment = {**os.environ, "TMPDIR": str(tmp_path / "tmp")}
    (tmp_path / "tmp").mkdir()
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        start_new_session=True,
    )  # fmt: skip
    yield process
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def test_ctrl_c_ends_the_model_that_runs_and_leaves_nothing(converting: subprocess.Popen[str], tmp_path: Path) -> None:
    assert converting.stderr is not None
    for line in converting.stderr:
        if "validate" in line:
            break
    # the CLI, the job, two nurseries, and the grandchild in which the model runs
    while len(below := descendants(converting.pid)) < 4:
        assert converting.poll() is None
    os.kill(converting.pid, signal.SIGINT)
    out, err = converting.communicate(timeout=20)
    assert converting.returncode == 130, err
    assert out == ""
    assert err.splitlines()[-4:] == [
        "error: the conversion was interrupted",
        "  why: Ctrl-C; the converter has ended, nothing was written",
        " next: run the same command again; a conversion that was finished is not done twice",
        " code: cli.interrupted",
    ]
    assert "Traceback" not in err
    assert gone(below)
    assert not (tmp_path / "out").exists() or list((tmp_path / "out").iterdir()) == []
    assert list((tmp_path / "tmp").iterdir()) == []


def test_ctrl_c_after_a_candidate_passed_ends_the_search_and_the_next_one_all(tmp_path: Path) -> None:
    stop = tmp_path / "end-search"
    search = SearchInterrupt(stop.touch)
    passed = {
        "type": "progress",
        "profile": PROFILE,
        "stage": "gate",
        "message": "best so far int8-static; int8-static: passed",
    }
    with search.ended_by_ctrl_c():
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        assert not stop.exists(), "nothing is there to keep"
        assert follow(iter([json.dumps(passed)]), Board(Output(quiet=True), None), search) is None
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.exists()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


class Interrupting(SystemClock):
    """A clock whose every sleep is ended by Ctrl-C."""

    def sleep(self, seconds: float) -> None:
        """Send the signal; return at once."""
        os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_in_publish_asks_the_server_to_keep_the_best(fleet: Stub) -> None:
    def standing(state: str, message: str) -> dict[str, Any]:
        job = {"id": "1", "profile": PROFILE, "state": "running", "stage": "gate", "message": message, "pct": 60}
        return {"ref": "net@1.0.0", "state": state, "jobs": [job], "bundles": []}

    fleet.says("POST /releases/net@1.0.0:end-search", standing("converting", "best so far fp16; fp16: passed"))
    fleet.says("GET /releases/net@1.0.0", standing("ready", "done"))
    with ApiClient(fleet.url, "token") as api:
        publisher = Publisher(api, Output(quiet=True), Interrupting())
        with pytest.raises(KeyboardInterrupt):
            publisher.follow(Reply(standing("converting", "making candidates"), Release))
        first = Reply(standing("converting", "best so far fp16; fp16: passed"), Release)
        fleet.says("GET /releases/net@1.0.0", first.raw, standing("ready", "done"))
        with pytest.raises(KeyboardInterrupt):  # the second one
            publisher.follow(first)
    assert [asked.what for asked in fleet.asked if "end-search" in asked.what] == [
        "POST /releases/net@1.0.0:end-search"
    ]


def test_whole_bundles_stay_and_are_counted(tmp_path: Path) -> None:
    for name in (
        "a.bundle",
        "b.bundle",
        "c.bundle.part",
        "report.json.part",
        "report.json",
        "mine.txt",
        "film.mp4.part",
    ):
        (tmp_path / name).write_bytes(b"x")
    assert remove_unfinished(tmp_path) == 2
    left = ["a.bundle", "b.bundle", "film.mp4.part", "mine.txt", "report.json"]
    assert sorted(path.name for path in tmp_path.iterdir()) == left, "nothing of the user's own is touched"


def test_the_converter_does_not_see_the_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGECTL_TOKEN", "edg_secret")
    monkeypatch.setenv("MY_METRIC", "x")
    seen = environment(tmp_path)
    assert "edg_secret" not in seen.values()
    assert (seen["MY_METRIC"], seen["TMPDIR"]) == ("x", str(tmp_path))
