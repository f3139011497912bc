"""The commands of docs/how-to/retrain-a-model.md at a server that answers what the test says."""

from __future__ import annotations

import shlex
from hashlib import sha256
from pathlib import Path

import pytest

from tests.cli.conftest import Edgectl
from tests.cli.fleet_stub import Stub, page
from tests.house.pages import blocks

PAGE = Path("docs/how-to/retrain-a-model.md")


def _blocks(word: str) -> str:
    (found,) = [one.text for one in blocks(PAGE) if word in one.text and one.language in {"sh", "python"}]
    return found


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, edgectl: Edgectl) -> Path:
    """A working folder with a capture key and labels."""
    monkeypatch.chdir(tmp_path)
    assert edgectl("capture-key", "create", "--out", "capture.key", "--no-set").code == 0
    (tmp_path / "labels.csv").write_text("trace_id,label\nt-1,1\n")
    return tmp_path


def test_the_trigger_of_the_page_is_made(fleet: Stub, edgectl: Edgectl, folder: Path) -> None:
    block = _blocks("trigger create")
    spec, _, line = block.partition("YAML\nedgectl ")
    (folder / "rollout.yaml").write_text(spec.partition("<<'YAML'\n")[2])
    fleet.says("POST /triggers", (201, {"name": "fog", "model": "digits", "on": "drift"}))
    ran = edgectl(*shlex.split(line))
    assert ran.code == 0, ran.err
    (body,) = fleet.bodies("POST /triggers")
    assert [one["name"] for one in body["rollout"]["stages"]] == ["shadow", "canary", "rest"]


def test_the_lists_of_the_page_are_shown(fleet: Stub, edgectl: Edgectl) -> None:
    fleet.says("GET /triggers", page([{"name": "fog", "model": "digits", "on": "drift", "state": "waiting"}]))
    fleet.says("GET /retrainings", page([{"id": "rt-1", "model": "digits", "state": "training", "trigger": "fog"}]))
    triggers, retrainings = [edgectl(*shlex.split(line)[1:]) for line in _blocks("trigger list").splitlines()]
    assert (triggers.code, "fog" in triggers.out) == (0, True), triggers.err
    assert (retrainings.code, "rt-1" in retrainings.out) == (0, True), retrainings.err


def test_the_runner_of_the_page_gets_a_token_of_its_own(fleet: Stub, edgectl: Edgectl) -> None:
    fleet.says("POST /people", (201, {"name": "digits-runner", "kind": "service"}))
    fleet.says("POST /tokens", (201, {"id": "t1", "name": "digits-runner", "role": "publisher", "token": "once"}))
    for line in _blocks("token create").splitlines():
        ran = edgectl(*shlex.split(line)[1:])
        assert ran.code == 0, (ran.err, fleet.asked)
    (person,) = fleet.bodies("POST /people")
    assert (person["name"], person["kind"]) == ("digits-runner", "service")
    (token,) = fleet.bodies("POST /tokens")
    assert (token["name"], token["roles"], token["models"]) == ("digits-runner", ["publisher"], ["digits"])
    assert token["never_expires"]


def test_the_runner_of_the_page_publishes_what_its_script_leaves(fleet: Stub, edgectl: Edgectl, folder: Path) -> None:
    (folder / "retrain.py").write_text(_blocks("# retrain.py"))
    model = sha256(b"a model").hexdigest()
    run = {"id": "rt-1", "model": "digits", "parent": "digits@1.1.0", "attempts": 1, "cause": {"words": "fog"}}
    fleet.says("POST /retrainings:lease", {"retraining": run, "lease": "x", "lease_s": 9}, (204, None))
    for verb in ("renew", "complete"):
        fleet.says(f"POST /retrainings/rt-1:{verb}", run)
    fleet.says("GET /releases/digits@1.1.0", {"ref": "digits@1.1.0", "model": "digits", "version": "1.1.0"})
    files = [{"path": "digits-1.1.0.onnx", "sha256": model, "length": 7}]
    fleet.says("GET /releases/digits@1.1.0/source", {"kind": "file", "files": files, "data": {}, "options": {}})
    fleet.says(f"GET /blobs/{model}", b"a model")
    fleet.says(f"HEAD /blobs/{model}", {})
    fleet.says("GET /releases", page([]))
    fleet.says("POST /releases", (201, {"ref": "digits@1.1.1", "state": "converting"}))
    line = _blocks("retrain worker digits").strip().removeprefix("edgectl ")
    ran = edgectl(*shlex.split(line))
    assert ran.code == 0, ran.err
    assert fleet.bodies("POST /retrainings/rt-1:complete") == [{"lease": "x", "release": "digits@1.1.1"}]
