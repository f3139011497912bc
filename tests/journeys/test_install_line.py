"""`pipx install 'edgefleet-agent[onnx]' && edge-agent enroll TOKEN`: no root, no configuration file, a clean environment.

First the agent's wheel alone: it starts, it is small, and nothing of the server is there.

pipx is a venv and pip; here those two, with the agent's wheel from this tree, as a user who may write into a home folder only.
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
from tests.house.tree import ROOT
from tests.journeys.road import PATIENCE_S, Road

pytestmark = [pytest.mark.network, pytest.mark.slow]
MAX_WHEEL_BYTES = 410_000
_OF_THE_WORKER = {
    "http": ("api", "codec", "describe", "predict", "wire"),
    "observe": ("answer_log", "benchmark", "capture", "live_answers"),
    "routing": ("split",),
    "runtime": ("lifecycle", "loader"),
    "shadow": ("comparer", "disagreements", "frames", "mirror"),
}
NEEDS_NUMPY = {
    f"edgefleet_agent.worker.{package}.{name}" for package, names in _OF_THE_WORKER.items() for name in names
} | {"edgefleet_agent.diagnostics.model_checks"}
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
        self.venv = folder / "venv"
        self.state = folder / ".local" / "state" / "edgefleet-agent"
        self.environment = {"HOME": str(folder), "PATH": os.environ["PATH"], "LANG": "C.UTF-8", **QUICK}
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
        yield Home(folder)


def stands_alone(home: Home, python: Path) -> None:
    """Check the wheel without an extra: it starts, only numpy is missing, and nothing of the server is there."""
    assert home.run(python.with_name("edge-agent"), "--version").startswith("edge-agent ")
    missing = dict(line.split() for line in home.run(python, "-c", IMPORT_ALL).splitlines())
    assert set(missing.values()) <= {"numpy"}
    assert set(missing) <= NEEDS_NUMPY
    probe = "import importlib.util as u; print([n for n in ('edgefleet_server', 'edgefleet_cli', 'fastapi') if u.find_spec(n)])"
    assert home.run(python, "-c", probe).strip() == "[]"


def test_a_user_without_rights_installs_enrols_and_serves(road: Road, home: Home, tmp_path: Path) -> None:
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "-q")
    subprocess.run([*pip, "wheel", "--no-deps", "-w", tmp_path, ROOT / "agent"], check=True, timeout=240)
    (wheel,) = tmp_path.glob("edgefleet_agent-*.whl")
    assert wheel.stat().st_size <= MAX_WHEEL_BYTES
    shutil.copy(wheel, home.folder / wheel.name)
    shutil.copy(ROOT / "constraints.txt", home.folder / "constraints.txt")
    home.run(python_for_all(home.folder), "-m", "venv", home.venv)
    python = home.venv / "bin" / "python"
    pip_install = (
        python,
        "-m",
        "pip",
        "--disable-pip-version-check",
        "-q",
        "install",
        "--no-compile",
        "-c",
        "constraints.txt",
    )
    home.run(*pip_install, home.folder / wheel.name)
    stands_alone(home, python)
    home.run(*pip_install, f"{home.folder / wheel.name}[onnx]")
    edge_agent = home.venv / "bin" / "edge-agent"

    claim = road.edgectl("device", "enroll", "--profile", "generic-x86_64-ort")["tokens"][0]["token"]
    told = json.loads(home.run(edge_agent, "enroll", "-", "-o", "json", stdin=claim))
    assert told["state"] == str(home.state)
    assert home.state.stat().st_mode & 0o777 == 0o700
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
