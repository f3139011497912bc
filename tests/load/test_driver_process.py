"""The process that is the simulated devices, by its stdin and stdout."""

import json
import subprocess
import sys
from pathlib import Path

from edgefleet_sim.live_fleet.identities import Fleet, IdentityFolder
from tests.broker.pki import Authority


def test_one_line_may_ask_for_several_things(tmp_path: Path) -> None:
    """A soak asks for quiet and for the last states at once: when only the first was done, it compared nothing."""
    folder = IdentityFolder(tmp_path / "identities")
    folder.begin(
        Fleet("127.0.0.1", 9, "5", "default", "server", "cpu"), Authority(tmp_path / "pki").ca_file.read_text()
    )
    (folder.folder / "devices.jsonl").write_text(json.dumps({"n": 0, "id": "d-1"}) + "\n")
    plan = {"drive": {"folder": str(folder.folder), "first": 0, "count": 1}}
    with subprocess.Popen(
        [sys.executable, "-m", "edgefleet_sim.live_fleet"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(plan) + "\n" + json.dumps({"quiet": True, "states": True}) + "\n")
        process.stdin.flush()
        lines = [json.loads(process.stdout.readline()) for _ in range(3)]
        process.stdin.close()
        assert process.wait(30) == 0
    assert "states" not in lines[0] or lines[0]["states"] == {}
    assert lines[-1]["states"] == {}, lines
