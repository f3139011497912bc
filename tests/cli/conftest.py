"""`edgectl` as a user runs it: a command line in, exit code, stdout and stderr out."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from edgefleet_cli.main import run


@dataclass(frozen=True)
class Ran:
    """What one command line did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The data on stdout, which must be one JSON document."""
        return json.loads(self.out)

    def told(self) -> tuple[str, str, str]:
        """The error's what, why and next; fails unless stderr ends in exactly those three lines."""
        lines = [line for line in self.err.splitlines() if line]
        at = next((i for i, line in enumerate(lines) if line.startswith("error: ")), None)
        assert at is not None, self.err
        told = lines[at:]
        assert len(told) == 3, self.err
        assert told[1].startswith("  why: "), self.err
        assert told[2].startswith(" next: "), self.err
        return told[0].removeprefix("error: "), told[1].removeprefix("  why: "), told[2].removeprefix(" next: ")


Edgectl = Callable[..., Ran]


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No setting of the person who runs the tests reaches them."""
    for name in [name for name in os.environ if name.startswith("EDGECTL_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("EDGECTL_CONFIG", str(tmp_path / "config" / "edgectl.json"))
    monkeypatch.setenv("NO_COLOR", "1")


@pytest.fixture
def edgectl(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Edgectl:
    """Run a command line in this process."""

    def call(*arguments: str | Path, stdin: str = "") -> Ran:
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        written = capsys.readouterr()
        return Ran(code, written.out, written.err)

    return call


@pytest.fixture
def edgectl_process() -> Edgectl:
    """Run a command line in a process of its own."""

    def call(*arguments: str | Path, stdin: str = "") -> Ran:
        command = [sys.executable, "-m", "edgefleet_cli.main", *map(str, arguments)]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=120, check=False)
        return Ran(done.returncode, done.stdout, done.stderr)

    return call
