"""The agent's own files are replaced while it runs: it starts again with the new ones, and stops when it is asked to."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgefleet_agent.core.code_files import CodeFiles
from tests.agent.field import Agent, deploy, eventually
from tests.agent.worker.models import bundle_bytes, classifier_onnx
from tests.house.tree import ROOT
from tests.server.gateway.conftest import Site


@pytest.fixture
def code(tmp_path: Path) -> Path:
    """A copy of the agent's packages."""
    folder = tmp_path / "code"
    shutil.copytree(ROOT / "agent", folder, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.fixture
def agent(site: Site, code: Path, tmp_path: Path) -> Iterator[Agent]:
    """An agent of that copy which serves digits 1.0.0."""
    made = Agent(site, tmp_path / "device", None, PYTHONPATH=str(code))
    deploy(site, "1.0.0", bundle_bytes(classifier_onnx()))
    made.start()
    made.wait("committed", "1.0.0")
    yield made
    made.stop()


def install(code: Path, version: str) -> None:
    """Replace the files as an installer does: the old ones go first, all at the same time."""
    new = code.with_name("new")
    shutil.copytree(code, new)
    start = new / "edgefleet_agent" / "__init__.py"
    start.write_text(start.read_text().replace('__version__ = "0.1.0"', f'__version__ = "{version}"'))
    code.rename(code.with_name("old"))
    new.rename(code)


def test_an_agent_whose_files_are_replaced_starts_again_in_place(agent: Agent, code: Path) -> None:
    before, pid = agent.infer()["outputs"], agent.status()["pid"]
    install(code, "0.1.1")
    # a worker that ends now says nothing about the model
    os.kill(agent.status()["workers"]["digits"], signal.SIGKILL)
    assert eventually(lambda: agent.status().get("agent_version") == "0.1.1"), agent.log.read_text()[-3000:]
    assert eventually(lambda: agent.model().get("serving"))
    assert agent.infer()["outputs"] == before
    assert agent.status()["pid"] == pid
    assert agent.record().crashes_s == []
    assert not [event for event in agent.events() if event.kind == "crash"]


def test_while_half_of_the_files_are_there_what_serves_goes_on_and_a_stop_is_obeyed(agent: Agent, code: Path) -> None:
    start = code / "edgefleet_agent" / "__init__.py"
    kept = start.rename(start.with_name("kept"))
    assert eventually(lambda: "files of the agent were replaced" in agent.log.read_text())
    assert agent.infer()["model_version"] == "1.0.0"
    assert agent.stop() == 0
    assert kept.exists()


def test_files_rest_when_two_looks_see_the_same(code: Path) -> None:
    files = CodeFiles(code / "edgefleet_agent" / "__init__.py")
    assert not files.are_replaced()
    install(code, "0.1.1")
    assert files.are_replaced()
    looks: list[None] = []

    def look() -> bool:
        looks.append(None)
        if len(looks) < 4:  # an installer is at work
            (code / "edgefleet_protocol" / f"new{len(looks)}.py").touch()
        return False

    files.wait(look, rest_s=0.0)
    assert len(looks) == 5


def test_what_is_not_installed_as_files_is_never_replaced(tmp_path: Path) -> None:
    assert not CodeFiles(tmp_path / "agent.zip" / "edgefleet_agent" / "__init__.py").are_replaced()
