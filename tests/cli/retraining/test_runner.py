"""`edgectl retrain worker` at a server that answers what a test says."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Edgectl
from tests.cli.fleet_stub import Json, Stub, page, problem

RUN: Json = {
    "id": "rt-7",
    "trigger": "fog",
    "model": "net",
    "state": "training",
    "parent": "net@1.1.0",
    "attempts": 1,
    "cause": {"on": "drift", "words": "brightness drifts on 3 of 4 devices"},
    "collected": {"asked": 2, "answered": 2, "records": 0},
}
PARENT: Json = {"ref": "net@1.1.0", "model": "net", "version": "1.1.0", "state": "ready"}
LABELS = b"one\ntwo\n"
TRAIN = """
import json, os, pathlib
parent, out = pathlib.Path(os.environ["EDGEFLEET_PARENT"]), pathlib.Path(os.environ["EDGEFLEET_OUT"])
print("cause:", json.loads(pathlib.Path(os.environ["EDGEFLEET_CAUSE"]).read_text())["words"])
assert not os.environ["EDGECTL_TOKEN"] and not list(pathlib.Path(os.environ["EDGEFLEET_DATA_SET"]).iterdir())
(out / "model.onnx").write_bytes((parent / "model.onnx").read_bytes() + b", trained")
print("epoch 3 of 3")
"""
WORK = ("retrain", "worker", "net", "--key", "capture.key", "--once", "--", sys.executable, "-c")


def digest(data: bytes) -> str:
    """Return the digest of bytes as the API writes it."""
    return sha256(data).hexdigest()


@pytest.fixture
def runs(fleet: Stub, edgectl: Edgectl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stub:
    """A server where one retraining waits, with its parent; the working folder has a capture key."""
    monkeypatch.chdir(tmp_path)
    assert edgectl("capture-key", "create", "--out", "capture.key", "--no-set").code == 0
    leased = {"retraining": RUN, "lease": "secret-lease", "lease_s": 1}
    fleet.says("POST /retrainings:lease", leased, (204, None))
    fleet.says("POST /retrainings/rt-7:renew", RUN)
    fleet.says("POST /retrainings/rt-7:complete", RUN | {"state": "converting"})
    fleet.says("POST /retrainings/rt-7:fail", RUN | {"state": "failed"})
    fleet.says("GET /releases/net@1.1.0", PARENT)
    source = {
        "kind": "file",
        "files": [{"path": "net-1.1.0.onnx", "sha256": digest(b"a model"), "length": 7}],
        "data": {"labels": digest(LABELS), "golden": digest(LABELS)},
        "options": {},
    }
    fleet.says("GET /releases/net@1.1.0/source", source)
    fleet.says(f"GET /blobs/{digest(b'a model')}", b"a model")
    fleet.says(f"GET /blobs/{digest(LABELS)}", LABELS)
    fleet.says("GET /releases", page([PARENT, PARENT | {"ref": "net@1.1.1", "version": "1.1.1"}]))
    for sent in (LABELS, b"a model, trained"):
        fleet.says(f"HEAD /blobs/{digest(sent)}", {})
    fleet.says("POST /releases", (201, {"ref": "net@1.1.2", "model": "net", "version": "1.1.2", "state": "converting"}))
    return fleet


def test_what_a_command_leaves_is_published_with_its_parent(runs: Stub, edgectl: Edgectl) -> None:
    ran = edgectl(*WORK, TRAIN)
    assert ran.code == 0, ran.err
    (published,) = runs.bodies("POST /releases")
    assert (published["model"], published["version"]) == ("net", "1.1.2"), "the next one that is free"
    assert published["lineage"] == {"parent": "net@1.1.0", "retraining": "rt-7"}
    assert published["source"]["files"][0]["sha256"] == digest(b"a model, trained")
    data = {kind: value for kind, value in published["data"].items() if value}
    assert data == {"labels": digest(LABELS)}, "of the parent, but not its golden answers"
    assert runs.bodies("POST /retrainings/rt-7:complete") == [{"lease": "secret-lease", "release": "net@1.1.2"}]
    assert "brightness drifts on 3 of 4 devices" in ran.err
    assert {one["holder"] for one in runs.bodies("POST /retrainings:lease")} != {""}


def test_a_command_that_fails_is_reported_with_its_last_lines(runs: Stub, edgectl: Edgectl) -> None:
    ran = edgectl(*WORK, "print('loading'); print('no memory'); raise SystemExit(3)")
    assert ran.code == 0, "the runner goes on"
    (failed,) = runs.bodies("POST /retrainings/rt-7:fail")
    assert failed["code"] == "training.failed"
    assert failed["why"] == "the command ended with exit code 3\nloading\nno memory"
    assert not runs.bodies("POST /releases")


def test_a_command_that_leaves_nothing_is_reported(runs: Stub, edgectl: Edgectl) -> None:
    assert edgectl(*WORK, "pass").code == 0
    assert runs.bodies("POST /retrainings/rt-7:fail")[0]["code"] == "training.result"


def test_the_command_ends_once_the_retraining_is_anothers(runs: Stub, edgectl: Edgectl, tmp_path: Path) -> None:
    lost = problem(409, "retraining.lease_conflict", "the lease is not yours")
    runs.says("POST /retrainings/rt-7:renew", RUN, lost)
    began = time.monotonic()
    ran = edgectl(*WORK, f"import time, pathlib; time.sleep(60); pathlib.Path({str(tmp_path / 'late')!r}).touch()")
    assert ran.code == 0, ran.err
    assert time.monotonic() - began < 30
    assert "no longer ours" in ran.err
    assert not (tmp_path / "late").exists()
    assert not runs.bodies("POST /releases")
    assert not runs.bodies("POST /retrainings/rt-7:fail"), "it is not ours to end"


@pytest.mark.parametrize("earlier", [{"attempts": 2}, {"attempts": 1, "given_back": 1}], ids=["killed", "given back"])
def test_what_an_earlier_runner_published_is_named_and_not_trained_again(
    runs: Stub, edgectl: Edgectl, earlier: Json
) -> None:
    runs.says("POST /retrainings:lease", {"retraining": RUN | earlier, "lease": "x", "lease_s": 9}, (204, None))
    child = PARENT | {"ref": "net@1.1.1", "version": "1.1.1", "lineage": {"retraining": "rt-7"}, "state": "converting"}
    runs.says("GET /releases", page([PARENT, child]))
    assert edgectl(*WORK, "raise SystemExit('trained again')").code == 0
    assert runs.bodies("POST /retrainings/rt-7:complete") == [{"lease": "x", "release": "net@1.1.1"}]


def test_sigterm_ends_the_command_and_gives_the_retraining_back(runs: Stub, tmp_path: Path) -> None:
    script = f"import time, pathlib; pathlib.Path({str(tmp_path / 'began')!r}).touch(); time.sleep(60)"
    command = [sys.executable, "-m", "edgefleet_cli.main", *WORK, script]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as runner:
        deadline = time.monotonic() + 60
        while not (tmp_path / "began").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        runner.send_signal(signal.SIGTERM)
        _, said = runner.communicate(timeout=60)
    assert (runner.returncode, "rt-7: given back" in said) == (0, True), said
    given: list[dict[str, Any]] = [one for one in runs.bodies("POST /retrainings/rt-7:renew") if one.get("gives_back")]
    assert [one["lease"] for one in given] == ["secret-lease"]
    assert not runs.bodies("POST /retrainings/rt-7:fail")


def test_a_wrong_key_is_refused_before_anything_is_taken(runs: Stub, edgectl: Edgectl) -> None:
    (Path("capture.key")).write_text("no key")
    assert edgectl(*WORK, "pass").code == 2
    assert not runs.bodies("POST /retrainings:lease")


def test_a_trigger_is_made_of_its_flags(runs: Stub, edgectl: Edgectl, tmp_path: Path) -> None:
    (tmp_path / "rollout.yaml").write_text("selector: site=gate\nstages:\n  - {name: all, size: {percent: 100}}\n")
    runs.says("POST /triggers", (201, {"name": "fog", "model": "net", "on": "drift"}))
    flags = (
        "--model",
        "net",
        "--on",
        "drift",
        "--lasting",
        "10m",
        "--cool-down",
        "12h",
        "--budget",
        "2",
        "--per",
        "7d",
    )
    more = ("--most", "500", "--reason", "drift", "--no-approval", "--rollout", "rollout.yaml")
    ran = edgectl("trigger", "create", "fog", *flags, *more)
    assert ran.code == 0, ran.err
    (body,) = runs.bodies("POST /triggers")
    assert body == {
        "name": "fog", "model": "net", "on": "drift", "lasting_s": 600, "cool_down_s": 43200, "budget": 2, "budget_period_s": 604800,
        "approval": False, "data": {"most": 500, "reasons": ["drift"]}, "enabled": True,
        "rollout": {"selector": "site=gate", "stages": [{"name": "all", "size": {"percent": 100}}]},
    }  # fmt: skip


def test_a_change_keeps_what_is_not_given(runs: Stub, edgectl: Edgectl) -> None:
    launcher = {
        "kind": "github",
        "settings": {"repository": "a/b", "ref": "main"},
        "deadline_s": 600,
        "has_secret": True,
    }
    data = {"most": 100, "devices": 5, "reasons": ["drift"], "wait_s": 60}
    runs.says("GET /triggers/fog", {"name": "fog", "model": "net", "launcher": launcher, "data": data})
    runs.says("PATCH /triggers/fog", {"name": "fog", "model": "net"})
    assert edgectl("trigger", "change", "fog", "--setting", "ref=next", "--most", "50", "--publish-only").code == 0
    assert json.loads(json.dumps(runs.bodies("PATCH /triggers/fog"))) == [
        {
            "launcher": {"kind": "github", "settings": {"repository": "a/b", "ref": "next"}, "deadline_s": 600},
            "data": {"most": 50, "devices": 5, "reasons": ["drift"], "wait_s": 60},
            "rollout": None,
        }
    ]
    assert edgectl("trigger", "disable", "fog").code == 0
    assert runs.bodies("PATCH /triggers/fog")[-1] == {"enabled": False}


def test_a_job_elsewhere_says_that_it_failed(runs: Stub, edgectl: Edgectl) -> None:
    told = ("--code", "training.no_memory", "--why", "MemoryError: 4.1 GB", "--next-step", "take a larger machine")
    ran = edgectl("retrain", "fail", "rt-7", *told)
    assert (ran.code, "failed" in ran.out) == (0, True), ran.err
    assert runs.bodies("POST /retrainings/rt-7:fail") == [
        {"code": "training.no_memory", "why": "MemoryError: 4.1 GB", "next_step": "take a larger machine"}
    ]
    assert edgectl("retrain", "fail", "rt-7").code == 2, "why is needed"
