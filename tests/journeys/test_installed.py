"""Every process that the product starts is started once as it is on other machines: from the installed wheels, without this tree.

No list of processes is kept: what the sources start by `-m` is read from them (`tests.house.test_names`), and what was started is
noted by each process itself.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from edgefleet_server.gateway.broker.model import find_mosquitto
from tests.agent.field import QUICK, eventually
from tests.agent.test_renew import age
from tests.house.test_names import STARTED
from tests.house.tree import ROOT
from tests.journeys.road import PATIENCE_S
from tests.support.installed import Installed, environment, shared

pytestmark = [pytest.mark.network, pytest.mark.slow, pytest.mark.timeout(900)]
DIGITS = ROOT / "examples" / "digits"
GLOSSARY = "from edgefleet_server.dashboard.core.glossary import glossary; print('stratum' in glossary())"
LAYER = """
import os, sys
os.environ.update({})
os.execv(sys.executable, [sys.executable, "-P", "-m", "edgefleet_cli.demo.last_layer"])
"""
STEPS = """
import importlib, sys
from edgefleet_converters.sandbox import Sandbox
from edgefleet_converters.sandbox_child import STEPS
for place in STEPS.values():
    module, _, function = place.partition(":")
    assert callable(getattr(importlib.import_module(module), function))
with Sandbox() as sandbox:
    print(sandbox.build("find_source", {"upload": sys.argv[1]}, what="looking").answer)
"""
"""The converter's steps. Its own sandbox starts them where they may write no note, so this starts them once outside of it."""


class Machine:
    """A folder, and the programs of the wheels that are run there."""

    def __init__(self, installed: Installed, folder: Path) -> None:
        self.installed = installed
        self.folder = folder
        self.environment = environment(EDGECTL_CONFIG=str(folder / "edgectl.json"), TMPDIR=str(folder), **QUICK)

    def edgectl(self, *arguments: str | Path) -> Any:
        """Return what `edgectl … -o json` prints, None for nothing."""
        printed = self.run("edgectl", *arguments, "-o", "json")
        return json.loads(printed) if printed else None

    def run(self, program: str, *arguments: str | Path, stdin: str = "") -> str:
        """Run a program to its end and return what it prints."""
        done = subprocess.run(
            [self.installed.program(program), *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=240,
            env=self.environment,
            cwd=self.folder,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def start(self, program: str, *arguments: str | Path) -> subprocess.Popen[str]:
        """Start a program whose progress is read from its standard error."""
        return subprocess.Popen(
            [self.installed.program(program), *arguments],
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
            env=self.environment,
            cwd=self.folder,
        )


@pytest.fixture
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A machine with both wheels, in a folder of a short name: sockets lie below it."""
    folder = tmp_path_factory.mktemp("m")
    _, installed = shared(tmp_path_factory)
    yield Machine(installed, folder)
    for pid in [int(line.split()[0]) for line in _running(folder)]:
        os.kill(pid, signal.SIGKILL)


def _running(folder: Path) -> list[str]:
    """Return "PID COMMAND" of what runs there."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if str(folder) in line:
            found.append(f"{entry.name} {line}")
    return found


def test_every_process_of_the_product_runs_from_the_wheels(machine: Machine) -> None:
    _does_without_a_server(machine)
    _trains_a_layer(machine)
    demo = machine.start("edgectl", "demo", "-n", "2", "--data", "demo", "--broker", "embedded")
    assert demo.stderr is not None
    told: list[str] = []
    while not any(
        line.startswith("3/") for line in told
    ):  # a release is published, proven, signed, and serves on a device
        told.append(demo.stderr.readline())
        assert told[-1], "".join(told)
    _asks_of_a_server(machine, machine.folder / "demo")
    demo.kill()
    demo.wait()
    assert eventually(lambda: not _running(machine.folder / "demo"), PATIENCE_S), _running(machine.folder / "demo")
    _watches_a_broker(machine)
    machine.run("edgectl", "server", "backup", "backups", "--data", "up", "--without-keys")
    machine.run("edgectl", "server", "upgrade-schema", "--data", "up")
    absent = machine.start("edgectl", "server", "check", "broker", "mqtts://127.0.0.1:9", "--data", "up")
    assert absent.wait(60) == 1
    _is_complete(machine.installed.started())


def _does_without_a_server(machine: Machine) -> None:
    document = machine.folder / "openapi.json"
    machine.run("edgectl", "server", "openapi", "--out", document)
    assert document.read_bytes() == (ROOT / "docs" / "reference" / "openapi.json").read_bytes()
    machine.run("edgectl", "server", "monitoring-files", "--out", machine.folder / "monitoring")
    assert "fleet.dashboard.json" in [file.name for file in (machine.folder / "monitoring").iterdir()], (
        "dashboards lie in the wheel"
    )
    assert machine.edgectl("sim", "--devices", "10")
    assert machine.run("python", "-P", "-c", GLOSSARY).strip() == "True", "the page of hard words lies in the wheel"
    assert machine.edgectl("tool", "list", "--tools", machine.folder / "tools")["items"]
    data = ("--calibration", DIGITS / "data" / "calibration.npz", "--eval", DIGITS / "data" / "eval.npz")
    where = (
        "--profile",
        "generic-x86_64-ort",
        "--name",
        "digits",
        "--version",
        "1.0.0",
        "--out",
        machine.folder / "out",
    )
    (bundle,) = machine.edgectl("convert", DIGITS / "digits-1.0.0.onnx", *data, *where)["bundles"]
    assert bundle["bundle_bytes"] > 0
    (machine.folder / "upload").mkdir()
    shutil.copy(DIGITS / "digits-1.0.0.onnx", machine.folder / "upload")
    assert "digits-1.0.0.onnx" in machine.run("python", "-P", "-c", STEPS, machine.folder / "upload")


def _trains_a_layer(machine: Machine) -> None:
    """Run what the runner of `demo --loop` runs, on some of the example's own images."""
    parent, data, out = (machine.folder / name for name in ("parent", "data-set", "result"))
    for folder in (parent, data, out):
        folder.mkdir()
    shutil.copy(DIGITS / "digits-1.1.0.onnx", parent / "model.onnx")
    for name in ("calibration", "eval", "reference"):
        shutil.copy(DIGITS / "data" / f"{name}.npz", parent)
    with np.load(DIGITS / "data" / "eval.npz") as known:
        named = [f"camera-{number}" for number in range(40)]
        np.savez(data / "data.npz", image=known["image"][:40], label=known["y"][:40], trace_id=named)
    places = {"EDGEFLEET_PARENT": parent, "EDGEFLEET_DATA_SET": data, "EDGEFLEET_OUT": out}
    told = machine.run("python", "-P", "-c", LAYER.format({name: str(place) for name, place in places.items()}))
    assert "40 labelled records" in told
    assert {file.name for file in out.iterdir()} == {"model.onnx", "eval.npz", "calibration.npz", "reference.npz"}


def _asks_of_a_server(machine: Machine, demo: Path) -> None:
    url = json.loads((demo / "server" / "run" / "server.json").read_text())["api_url"]
    token = (demo / "server" / "admin.token").read_text().strip()
    reach = ("--server", url, "--token", token)
    answer = httpx.get(f"{url}/api/v1/releases/digits@1.0.0/report.html", headers={"authorization": f"Bearer {token}"})
    assert "digits" in answer.raise_for_status().text
    claim = machine.edgectl("device", "enroll", "--profile", "generic-x86_64-ort", *reach)["tokens"][0]["token"]
    state = machine.folder / "device"
    told = json.loads(machine.run("edge-agent", "enroll", "-", "--run", "--state", state, "-o", "json", stdin=claim))
    archive = machine.folder / "diag.tar.gz"
    machine.edgectl("device", "diag", told["device"], "--out", archive, "--timeout", "120s", *reach)
    assert archive.stat().st_size > 0
    _renews(machine, state, int(told["pid"]))


def _renews(machine: Machine, state: Path, pid: int) -> None:
    """Run the agent with a certificate that is due."""
    os.kill(pid, signal.SIGTERM)
    assert eventually(lambda: not (state / "run" / "status.json").exists(), PATIENCE_S)
    assert eventually(lambda: not Path(f"/proc/{pid}").exists(), PATIENCE_S)
    age(state, 0.67)
    old = (state / "identity" / "key.pem").read_bytes()
    machine.environment["EDGEFLEET_AGENT_RENEW_LOOK_S"] = "0.2"
    agent = machine.start("edge-agent", "run", "--state", state)
    assert eventually(lambda: (state / "identity" / "key.pem").read_bytes() != old, PATIENCE_S)
    agent.terminate()
    assert agent.wait(timeout=30) == 0


def _watches_a_broker(machine: Machine) -> None:
    """Run a server on the other broker, which has a parent to be watched; without mosquitto, the watcher with another program."""
    if find_mosquitto() is not None:
        machine.run(
            "edgectl", "server", "up", "--data", "up", "--port", "0", "--device-port", "0", "--broker", "mosquitto"
        )
        assert [line for line in _running(machine.folder / "up") if "parent_watch" in line or "mosquitto" in line]
        machine.run("edgectl", "server", "down", "--data", "up")
    else:
        machine.run("python", "-m", "edgefleet_server.gateway.broker.parent_watch", str(os.getpid()), "/bin/true")
        machine.run("edgectl", "server", "init", "up")


def _is_complete(commands: list[list[str]]) -> None:
    """Check that each module that the sources start was started."""
    started = {after for command in commands for word, after in pairwise(command) if word == "-m"}
    assert sorted(set(STARTED) - started) == []
