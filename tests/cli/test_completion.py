"""Completion as a shell asks for it: the printed bash script, its real protocol, names that the server says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgefleet_cli.core import completion
from edgefleet_cli.main import run
from tests.cli.fleet_stub import Stub, page

DEVICES: list[dict[str, Any]] = [
    {"id": "cam-1", "profile": "p-ort", "labels": {"site": "berlin", "ring": "1"}},
    {"id": "cam-2", "profile": "p-ort", "labels": {"site": "rome"}},
]
NAMED: dict[str, list[dict[str, Any]]] = {
    "GET /devices": DEVICES,
    "GET /groups": [{"name": "hall"}],
    "GET /profiles": [{"name": "p-ort"}, {"name": "q-ort"}],
    "GET /models": [{"name": "digits"}],
    "GET /models/digits/aliases": [{"alias": "prod"}],
    "GET /releases": [{"ref": "digits@1.0.0", "version": "1.0.0"}],
    "GET /enrollments": [{"id": "claim-1"}],
    "GET /alert-receivers": [{"id": "am-1"}],
    "GET /webhooks": [{"id": "hook-1"}],
    "GET /webhooks/hook-1/deliveries": [{"id": 71}, {"id": 82}],
    "GET /bundles": [{"sha256": "ab" * 32}],
    "GET /keys": [{"name": "root"}, {"name": "m.digits"}],
    "GET /experiments": [{"id": "r-1"}],
}
EDGECTL = Path(sys.executable).with_name("edgectl")

ASKED: tuple[tuple[str, list[str]], ...] = (
    ("publish --profile q", ["q-ort"]),
    ("convert --profile p", ["p-ort"]),
    ("import watch --profile q", ["q-ort"]),
    ("device enroll --profile q", ["q-ort"]),
    ("deploy digits@1.0.0 --to gr", ["group=hall"]),
    ("rollout create digits@1.0.0 -l site", ["site=berlin", "site=rome"]),
    ("device list -l pro", ["profile=p-ort"]),
    ("device ask logs -l status=off", ["status=offline"]),
    ("group create g -l ri", ["ring=1"]),
    ("device revoke-claim c", ["claim-1"]),
    ("device approve --claim c", ["claim-1"]),
    ("alert-receiver delete a", ["am-1"]),
    ("webhook redeliver hook-1 7", ["71"]),
    ("get gr", ["group"]),
    ("get group h", ["hall"]),
    ("get webhook h", []),
    ("tool install t", ["tensorflow", "torch"]),
    ("model alias set d", ["digits"]),
    ("model alias set digits p", ["prod"]),
    ("model alias set digits prod 1", ["1.0.0"]),
    ("model compare d", ["digits@1.0.0"]),
    ("model pull d", ["digits@1.0.0"]),
    ("device label c", ["cam-1", "cam-2"]),
    ("device label cam-1 c", []),
    ("device metrics cam-2", ["cam-2"]),
    ("bundle show a", ["ab" * 32]),
    ("key show m", ["m.digits"]),
    ("experiment show r", ["r-1"]),
    ("device describe cam-1", ["cam-1"]),
    ("device des", ["describe"]),
    ("rollout rollb", ["rollback"]),
    ("deploy digits@1.0.0 --selector gr", ["group=hall"]),
)


@pytest.fixture
def named(fleet: Stub) -> Stub:
    """A server that knows some names."""
    for what, items in NAMED.items():
        fleet.says(what, page(items))
    return fleet


@pytest.mark.parametrize(("line", "offered"), ASKED)
def test_a_tab_offers_what_the_server_knows(
    named: Stub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], line: str, offered: list[str]
) -> None:
    words = ["edgectl", *line.split(" ")]
    monkeypatch.setenv("_EDGECTL_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "\n".join(words))
    monkeypatch.setenv("COMP_CWORD", str(len(words) - 1))
    with pytest.raises(SystemExit):
        run([])
    told = capsys.readouterr()
    assert (sorted(filter(None, told.out.splitlines())), told.err) == (offered, "")


def test_bash_itself_completes_with_the_printed_script(named: Stub, tmp_path: Path) -> None:
    script = """
        eval "$(edgectl completion bash)"
        COMP_WORDS=(edgectl device show cam)
        COMP_CWORD=3
        "$(complete -p edgectl | sed -n 's/.*-F \\([^ ]*\\).*/\\1/p')" edgectl
        printf '%s\\n' "${COMPREPLY[@]}"
    """
    environment = os.environ | {"PATH": f"{EDGECTL.parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "--norc", "-c", script], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.splitlines() == ["cam-1", "cam-2"], done.stderr


def test_a_selector_goes_on_after_a_comma(named: Stub) -> None:
    assert completion.selectors("ring=1,site=b") == ["ring=1,site=berlin"]
    assert len(named.queries("GET /devices")) == 2, "labels and profiles; the next TAB asks nobody"
    completion.selectors("g")
    assert len(named.queries("GET /devices")) == 2
