"""pip, or dpkg, replaces the files of an agent that runs: it starts again with the new ones, and nothing is lost.

The new version is this tree with its processes moved: an agent that went on as it was could start none of them any more.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.agent.field import eventually
from tests.agent.worker.models import bundle_bytes, classifier_onnx
from tests.house.tree import ROOT
from tests.journeys.road import PATIENCE_S, Road, Traveller
from tests.support.installed import Installed, build_wheels, new_environment, shared

pytestmark = [pytest.mark.network, pytest.mark.slow, pytest.mark.timeout(900)]
MOVED = {"edgefleet_agent/worker": "server_process", "edgefleet_agent/verifier": "document_check"}
NEW_VERSION = "0.1.1"


class InstalledTraveller(Traveller):
    """An agent from an installed wheel, alone in its environment."""

    def outputs(self) -> Any:
        """Return what the model answers."""
        answer = self.ask_four("digits")
        assert answer.is_success, answer.text
        return answer.json()["outputs"]

    def runs(self, agent_version: str) -> bool:
        """Whether that version runs, is connected, and takes requests."""
        status = self.status()
        serves = any(model["serving"] for model in status.get("models", []))
        return status.get("agent_version") == agent_version and bool(status["connected"]) and serves


@pytest.fixture
def systemd() -> Iterator[socket.socket]:
    """What systemd listens on: the agent's `NOTIFY_SOCKET`."""
    with (
        tempfile.TemporaryDirectory(prefix="ef-") as name,  # `tmp_path` may be too long for a socket
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel,
    ):
        channel.bind(f"{name}/notify")
        channel.setblocking(False)
        yield channel


@pytest.fixture
def device(
    road: Road, tmp_path_factory: pytest.TempPathFactory, systemd: socket.socket
) -> Iterator[tuple[InstalledTraveller, Installed]]:
    """A device that serves digits 1.0.0, proven, from an environment of its own."""
    wheels, _ = shared(tmp_path_factory)
    home = new_environment(tmp_path_factory.mktemp("agent") / "venv", [one for one in wheels if "agent" in one.name])
    InstalledTraveller.python = str(home.python)
    made = InstalledTraveller(road, "replaced", PYTHONPATH="", PYTHONSAFEPATH="1", NOTIFY_SOCKET=systemd.getsockname())
    road.release("digits@1.0.0", bundle_bytes(classifier_onnx(), version="1.0.0"))
    assert made.served("digits") == "1.0.0"
    made.told("digits", phase="committed", serving=True)
    yield made, home
    made.stop()


def newer_wheel(folder: Path) -> Path:
    """Build an agent of a newer version, some of whose packages have moved."""
    source = folder / "agent"
    shutil.copytree(ROOT / "agent", source, ignore=shutil.ignore_patterns("__pycache__"))
    for file in [*source.rglob("*.py"), source / "pyproject.toml"]:
        text = file.read_text(encoding="utf-8").replace('version = "0.1.0"', f'version = "{NEW_VERSION}"')
        text = text.replace('__version__ = "0.1.0"', f'__version__ = "{NEW_VERSION}"')
        for old, new in MOVED.items():
            package, _, name = old.partition("/")
            text = text.replace(f"{package}.{name}", f"{package}.{new}")
        file.write_text(text, encoding="utf-8")
    for old, new in MOVED.items():
        (source / old).rename((source / old).with_name(new))
    (wheel,) = build_wheels(folder / "new", source)
    return wheel


def test_an_agent_whose_files_are_replaced_starts_again_and_serves_as_before(
    road: Road, device: tuple[InstalledTraveller, Installed], tmp_path: Path, systemd: socket.socket
) -> None:
    agent, home = device
    wheel = newer_wheel(tmp_path)
    before, record, status = agent.outputs(), agent.record(), agent.status()
    pid, worker = status["pid"], status["workers"]["digits"]
    # the agent must not see the new files before its worker has died: it would start again first
    os.kill(pid, signal.SIGSTOP)
    try:
        home.install(wheel)
        # a worker that dies now could only be started from the new files: that must say nothing about the model
        os.kill(worker, signal.SIGKILL)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert eventually(lambda: agent.runs(NEW_VERSION), PATIENCE_S), agent.log.read_text()[-3000:]
    assert agent.status()["pid"] == pid
    # a service that says STOPPING is killed after its TimeoutStopSec, whatever it says later
    heard = []
    with suppress(BlockingIOError):
        while True:
            heard.append(systemd.recv(4096).decode())
    states = [one for one in heard if one != "WATCHDOG=1"]
    assert states == ["READY=1\nSTATUS=running", "STATUS=restarting", "READY=1\nSTATUS=running"]
    assert agent.outputs() == before
    after = agent.record()
    assert (after.active, after.phase, after.crashes_s) == (record.active, record.phase, [])
    told = [(event["kind"], event["detail"]) for event in agent.events_told()]
    assert not [event for event in told if event[0] in ("crash", "rolled_back")], told

    road.release("digits@1.1.0", bundle_bytes(classifier_onnx(), version="1.1.0"))
    agent.told("digits", release="digits@1.1.0", phase="committed", serving=True)
    assert agent.served("digits") == "1.1.0"
    assert "Traceback" not in agent.log.read_text()
