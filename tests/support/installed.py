"""Environments that hold our two wheels and nothing of this tree, as on another machine; all else comes from the tests' own environment.

Every process that is started with such an environment's Python notes how it was started, and where our packages lie.
"""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.house.tree import ROOT

_NOTES = """
import importlib.util, json, os, sys
def _places():
    for name in ("edgefleet_agent", "edgefleet_server", "edgefleet_converters"):
        found = importlib.util.find_spec(name)
        yield found.origin if found else ""
try:
    with open({log!r}, "a") as _log:
        _log.write(json.dumps([sys.orig_argv, list(_places())]) + "\\n")
except OSError:
    pass  # a sandbox lets it write nothing; the process that became it has noted the whole command
"""


@dataclass(frozen=True)
class Installed:
    """One such environment."""

    folder: Path

    @property
    def python(self) -> Path:
        """Its Python."""
        return self.folder / "bin" / "python"

    @property
    def packages(self) -> Path:
        """The folder where our packages are installed."""
        (found,) = self.folder.glob("lib/python3*/site-packages")
        return found

    def program(self, name: str) -> Path:
        """Return one of the programs of the wheels."""
        return self.folder / "bin" / name

    def install(self, *wheels: Path) -> None:
        """Install wheels over what is there. Raises CalledProcessError."""
        pip = [str(self.python), "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([*pip, "--force-reinstall", *map(str, wheels)], check=True, capture_output=True, timeout=240)

    def started(self) -> list[list[str]]:
        """Return the command lines of all Python processes so far. Raises AssertionError when one saw this tree's packages."""
        noted = [json.loads(line) for line in (self.folder / "started.jsonl").read_text().splitlines()]
        for command, places in noted:
            foreign = [place for place in places if place and not place.startswith(str(self.packages))]
            assert not foreign, (command, foreign)
        return [command for command, _ in noted]


def environment(**more: str) -> dict[str, str]:
    """Return this process's environment without what names our tree or our settings."""
    ours = ("PYTHON", "EDGEFLEET_", "EDGECTL_", "VIRTUAL_ENV")
    return {key: value for key, value in os.environ.items() if not key.startswith(ours)} | more


def build_wheels(out: Path, *sources: Path) -> list[Path]:
    """Build wheels. Downloads the build tool; raises CalledProcessError."""
    pip = [sys.executable, "-m", "pip", "wheel", "-q", "--disable-pip-version-check", "--no-deps", "-w", str(out)]
    subprocess.run([*pip, *map(str, sources)], check=True, capture_output=True, timeout=240)
    return sorted(out.glob("*.whl"))


def new_environment(folder: Path, wheels: list[Path]) -> Installed:
    """Make an environment with these wheels."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, capture_output=True, timeout=240)
    made = Installed(folder)
    made.install(*wheels)
    # a path in a .pth file is not searched for further .pth files: the editable installs of our own packages stay out
    (made.packages / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    (made.packages / "notes_of_start.py").write_text(_NOTES.format(log=str(folder / "started.jsonl")))
    (made.packages / "notes_of_start.pth").write_text("import notes_of_start\n")
    return made


def shared(factory: pytest.TempPathFactory) -> tuple[list[Path], Installed]:
    """Return the wheels of this tree, and an environment with both that nobody changes: made once a run."""
    base = factory.getbasetemp()
    above = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    wheels, folder = above / "wheels", above / "installed"
    with (above / "installed.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (above / "installed.done").exists():
            new_environment(folder, build_wheels(wheels, ROOT, ROOT / "agent"))
            (above / "installed.done").touch()
    return sorted(wheels.glob("*.whl")), Installed(folder)
