"""The commands of examples/machine-sound/README.md at a server that answers what the test says."""

from __future__ import annotations

import shlex
import sys
from hashlib import sha256
from pathlib import Path

import pytest

from tests.cli.conftest import Edgectl
from tests.cli.fleet_stub import Stub
from tests.house.pages import shell_blocks
from tests.house.tree import ROOT

README = Path("examples/machine-sound/README.md")


def _line(start: str) -> list[str]:
    (found,) = [
        line
        for block in shell_blocks(README)
        if block.kind == "elsewhere"
        for line in block.text.splitlines()
        if line.startswith(f"edgectl {start}")
    ]
    return shlex.split(found)[1:]


def test_the_trigger_of_the_page_is_made(fleet: Stub, edgectl: Edgectl) -> None:
    fleet.says("POST /triggers", (201, {"name": "new-hall", "model": "fan", "on": "drift"}))
    ran = edgectl(*_line("trigger"))
    assert ran.code == 0, ran.err
    (body,) = fleet.bodies("POST /triggers")
    assert (body["model"], body["on"], body["lasting_s"], body["budget"]) == ("fan", "drift", 3600, 2)


def test_a_run_without_captured_windows_fails_in_words(
    fleet: Stub, edgectl: Edgectl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    assert edgectl("capture-key", "create", "--out", "capture.key", "--no-set").code == 0
    (tmp_path / "labels.csv").write_text("trace_id,label\nt-1,bearing\n")
    model = (ROOT / "examples" / "machine-sound" / "fan-1.0.0.onnx").read_bytes()
    digest = sha256(model).hexdigest()
    run = {"id": "rt-1", "model": "fan", "parent": "fan@1.0.0", "attempts": 1, "cause": {"words": "x drifts"}}
    fleet.says("POST /retrainings:lease", {"retraining": run, "lease": "x", "lease_s": 9}, (204, None))
    for verb in ("renew", "fail"):
        fleet.says(f"POST /retrainings/rt-1:{verb}", run)
    fleet.says("GET /releases/fan@1.0.0", {"ref": "fan@1.0.0", "model": "fan", "version": "1.0.0"})
    files = [{"path": "fan-1.0.0.onnx", "sha256": digest, "length": len(model)}]
    fleet.says("GET /releases/fan@1.0.0/source", {"kind": "file", "files": files, "data": {}, "options": {}})
    fleet.says(f"GET /blobs/{digest}", model)
    words = _line("retrain")
    words[words.index("python")] = sys.executable
    assert "failed" in edgectl(*words).err
    (body,) = fleet.bodies("POST /retrainings/rt-1:fail")
    assert "no window was captured" in body["why"]
