"""`edgectl sim fleet` as a user types it, against a real server: steps, a second run with the same devices, a refusal, the end."""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.house.tree import ROOT
from tests.support.servers import PROFILE, ServerProcess, copy_server, server_process

pytestmark = pytest.mark.slow
STEP = ("--devices", "6", "--duration", "2s", "--interval", "1s", "--rate", "100")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    """Yield a running server with its embedded broker."""
    token = copy_server(tmp_path / "data")
    with server_process(tmp_path / "data", token) as running:
        yield running


def edgectl(server: ServerProcess, *words: str) -> subprocess.CompletedProcess[str]:
    """Run one command with the state folder of this test."""
    home = str(server.data.parent)
    environment = {**os.environ, "HOME": home, "XDG_STATE_HOME": f"{home}/state", "EDGECTL_SERVER": server.url}
    command = [sys.executable, "-m", "edgefleet_cli.main", "sim", "fleet", *words]
    return subprocess.run(
        command, env={**environment, "EDGECTL_TOKEN": server.token}, capture_output=True, text=True, check=False
    )


def test_the_lines_of_the_page_load_a_server_with_the_same_devices_and_revoke_them(server: ServerProcess) -> None:
    """Run each line of the page as it stands, with few devices for a short time."""
    lines = re.findall(
        r"^edgectl sim fleet (.*)$", (ROOT / "docs/operate/load-test.md").read_text("utf-8"), re.MULTILINE
    )
    ramp, mixed, cleanup = (shlex.split(line) for line in lines)
    table = edgectl(server, *ramp, *STEP)
    assert "P99 MS" in table.stdout, table.stderr
    assert [row.split()[:2] for row in table.stdout.splitlines()[1:4]] == [["1", "1"], ["3", "3"], ["6", "6"]]
    answer = edgectl(server, *mixed, *STEP)
    told = json.loads(answer.stdout)
    assert [(one["devices"], one["connected"]) for one in told["steps"]] == [(6, 6)], answer.stderr
    assert told["unacked"] == 0
    with server.client() as api:
        assert api.get("/api/v1/devices", params={"selector": "sim=load"}).json()["total"] == 6, (
            "the second run used them again"
        )
        other = edgectl(server, *STEP, "--hardware", "raspberry-pi-5-ort")
        assert (other.returncode, PROFILE in other.stderr) == (2, True)
        assert edgectl(server, *cleanup, "--yes").returncode == 0
        assert api.get("/api/v1/fleet/summary").json()["status"]["revoked"] == 6
    assert not list((server.data.parent / "state").rglob("devices.jsonl")), "no key is left"
