"""The line that `edgectl device enroll` prints: no root, no configuration file, no agent yet, a user who may write into a home folder only.

First the agent's wheel alone: it starts, it is small, and nothing of the server is there. Then the same line brings the runtime.
"""

import json
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.agent.field import QUICK, eventually
from tests.agent.worker.models import bundle_bytes, classifier_onnx
from tests.house.pages import shell_blocks
from tests.house.tree import ROOT
from tests.journeys.road import PATIENCE_S, Road

pytestmark = [pytest.mark.network, pytest.mark.slow]
MAX_WHEEL_BYTES = 593_500
_OF_THE_WORKER = {
    "http": (
        "api",
        "codec",
        "describe",
        "feedback_items",
        "float_rows",
        "memory_connection",
        "memory_server",
        "model_calls",
        "predict",
        "wire",
    ),
    "observe": ("answer_log", "baseline", "benchmark", "capture", "kept_log", "live_answers", "signal_log"),
    "routing": ("split",),
    "runtime": ("lifecycle", "loader"),
    "shadow": ("comparer", "disagreements", "frames", "mirror"),
}
NEEDS_NUMPY = {
    f"edgefleet_agent.worker.{package}.{name}" for package, names in _OF_THE_WORKER.items() for name in names
} | {"edgefleet_agent.diagnostics.model_checks", "edgefleet_agent.diagnostics.installed_check"}
IMPORT_ALL = """
import importlib, pkgutil, edgefleet_agent, edgefleet_protocol
for package in (edgefleet_agent, edgefleet_protocol):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not module.name.endswith("__main__"):
            try:
                importlib.import_module(module.name)
            except ModuleNotFoundError as error:
                print(module.name, error.name)
"""
NOBODY = pwd.getpwnam("nobody")


class Home:
    """A home folder of a user without rights, and what is installed there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.venv = folder / ".local" / "share" / "edgefleet-agent"
        self.state = folder / ".local" / "state" / "edgefleet-agent"
        self.programs = folder / "programs"
        self.environment = {
            "HOME": str(folder),
            "PATH": f"{self.programs}:{os.environ['PATH']}",
            "LANG": "C.UTF-8",
            "PIP_CONSTRAINT": str(self.programs / "constraints.txt"),
            **QUICK,
        }
        self.user: dict[str, Any] = {"user": NOBODY.pw_uid, "group": NOBODY.pw_gid, "extra_groups": []}
        if os.geteuid() != 0:
            self.user = {}

    def run(self, *command: str | Path, stdin: str = "") -> str:
        """Run a command as that user and return what it prints."""
        done = subprocess.run(
            command,
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=240,
            cwd=self.folder,
            env=self.environment,
            **self.user,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return str(done.stdout)


def python_for_all(folder: Path) -> str:
    """Return a Python that this user may start and that can make environments; skips when there is none."""
    user = {"user": NOBODY.pw_uid, "group": NOBODY.pw_gid} if os.geteuid() == 0 else {}
    for name in (str(Path(sys.executable).resolve()), "/usr/bin/python3.11", "/usr/bin/python3"):
        try:
            found = subprocess.run([name, "-c", "import ensurepip"], check=False, cwd=folder, **user)  # type: ignore[call-overload]
        except OSError:
            continue
        if found.returncode == 0:
            return name
    pytest.skip("no Python with venv can be started by a user without rights: apt-get install python3-venv")


@pytest.fixture
def home() -> Iterator[Home]:
    """A home in a folder that others may walk through."""
    with tempfile.TemporaryDirectory(prefix="ef-home-") as name:
        folder = Path(name)
        if os.geteuid() == 0:
            os.chown(folder, NOBODY.pw_uid, NOBODY.pw_gid)
        made = Home(folder)
        made.programs.mkdir()
        shutil.copy(ROOT / "constraints.txt", made.programs)
        python = made.programs / "python3"
        python.write_text(f'#!/bin/sh\nexec {python_for_all(folder)} "$@"\n')
        python.chmod(0o755)
        yield made


def stands_alone(home: Home, python: Path) -> None:
    """Check the wheel without an extra: only numpy is missing, and nothing of the server is there."""
    missing = dict(line.split() for line in home.run(python, "-c", IMPORT_ALL).splitlines())
    assert set(missing.values()) <= {"numpy"}
    assert set(missing) <= NEEDS_NUMPY
    of_the_server = ("edgefleet_server", "edgefleet_cli", "edgefleet_terms", "fastapi")
    probe = f"import importlib.util as u; print([n for n in {of_the_server} if u.find_spec(n)])"
    assert home.run(python, "-c", probe).strip() == "[]"


def hand_out(road: Road) -> None:
    """Build the packages and add them, by the lines of the page."""
    page = Path("docs/how-to/enrol-a-device.md")
    (block,) = [block.text for block in shell_blocks(page) if block.kind == "elsewhere"]
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "EDGEFLEET_SERVER_DATA": str(road.data),
        "EDGECTL_SERVER": road.server.url,
        "EDGECTL_TOKEN": road.token,
    }
    done = subprocess.run(
        ["bash", "-euc", block], cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=240
    )
    assert done.returncode == 0, done.stderr
    assert "sh install.sh)" in done.stderr
    (wheel,) = (ROOT / "dist").glob("edgefleet_agent-*.whl")
    assert wheel.stat().st_size <= MAX_WHEEL_BYTES


def test_a_user_without_rights_installs_enrols_and_serves(road: Road, home: Home, tmp_path: Path) -> None:
    hand_out(road)
    made = road.edgectl("device", "enroll", "--profile", "generic-x86_64-ort")
    line, claim = made["install"], made["tokens"][0]["token"]
    pin = line.partition("echo '")[2][:8]
    with pytest.raises(AssertionError, match=r"ca\.pem: FAILED"):
        home.run("bash", "-c", f"echo {claim} | {line.replace(pin, pin[::-1])}")
    assert list(home.folder.iterdir()) == [home.programs]

    home.environment["EDGEFLEET_EXTRAS"] = ""
    home.run("bash", "-c", f"echo {claim} | {line}")
    edge_agent = home.folder / ".local" / "bin" / "edge-agent"
    assert home.state.stat().st_mode & 0o777 == 0o700
    assert [file for file in home.folder.rglob("*") if file.is_file() and claim.encode() in file.read_bytes()] == []
    home.run(edge_agent, "stop")
    stands_alone(home, home.venv / "bin" / "python")
    home.environment["EDGEFLEET_EXTRAS"] = "onnx"
    home.run("bash", "-c", line)  # the device is enrolled: no token is asked for
    road.release("digits@1.0.0", bundle_bytes(classifier_onnx()))
    with (tmp_path / "agent.log").open("wb") as log:
        agent = subprocess.Popen([edge_agent, "run"], env=home.environment, stderr=log, cwd=home.folder, **home.user)
    try:

        def status() -> dict[str, Any]:
            try:
                found: dict[str, Any] = json.loads((home.state / "run" / "status.json").read_text())
            except (OSError, ValueError):
                return {}
            return found

        assert eventually(lambda: any(m["serving"] for m in status().get("models", [])), PATIENCE_S), (
            tmp_path / "agent.log"
        ).read_text()[-3000:]
        assert json.loads(home.run(edge_agent, "self-test", "-o", "json"))["ok"]
        findings = json.loads(home.run(edge_agent, "doctor", "-o", "json"))["findings"]
        assert not [f for f in findings if f["level"] == "bad"]
        assert not (home.state / "agent.toml").exists()
    finally:
        agent.terminate()
        assert agent.wait(timeout=30) == 0
