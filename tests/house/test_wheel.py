"""The agent's wheel alone, in an environment of its own: it starts, it is small, and nothing of the server is there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.house.tree import ROOT

MAX_WHEEL_BYTES = 300_000
NEEDS_NUMPY = {f"edgefleet_agent.worker.{name}" for name in ("api", "life", "loading", "predict", "wire")} | {
    "edgefleet_agent.care.measure"
}
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


def _run(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.network
@pytest.mark.slow
def test_the_agent_wheel_stands_alone(tmp_path: Path) -> None:
    _run(sys.executable, "-m", "venv", tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    pip = (python, "-m", "pip", "--disable-pip-version-check", "-q")
    _run(*pip, "wheel", "--no-deps", "-w", tmp_path, ROOT / "agent")
    (wheel,) = tmp_path.glob("edgefleet_agent-*.whl")
    assert wheel.stat().st_size <= MAX_WHEEL_BYTES
    _run(*pip, "install", "-c", ROOT / "constraints.txt", wheel)
    assert _run(tmp_path / "venv" / "bin" / "edge-agent", "--version").startswith("edge-agent ")
    missing = dict(line.split() for line in _run(python, "-c", IMPORT_ALL).splitlines())
    assert set(missing.values()) <= {"numpy"}
    assert set(missing) <= NEEDS_NUMPY
    probe = "import importlib.util as u; print([n for n in ('edgefleet_server', 'edgefleet_cli', 'fastapi') if u.find_spec(n)])"
    assert _run(python, "-c", probe).strip() == "[]"
