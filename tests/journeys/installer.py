"""`./dev soak installer`: the line that `edgectl device enroll` prints, typed on whole Debian systems.

On each system: the line as it is printed, behind `echo TOKEN |`; a release of the digits example that answers `edge-agent infer`; the
line again, without a token; and what the installer says removes it, after which nothing of it is left. Where systemd runs: the agent is
a service with an account of its own, and is back after a reboot. Emulated ARM has no init: there the agent runs in the background of one
shell, in which all of it happens.

Numbers are seconds. n: how many of SYSTEMS, from the first.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from edgefleet_server.gateway.broker.model import find_mosquitto
from tests.agent.field import eventually
from tests.house.tree import ROOT
from tests.journeys.booted import BASE, Booted, Emulated, Root, RootError
from tests.journeys.road import Road
from tests.release import dist

WAIT_S: Final = 180.0
DIGITS = ROOT / "examples" / "digits"
PICTURE = "/var/tmp/7.png"
NEEDED: Final = ("mmdebstrap", "systemd-nspawn", "nsenter", "unshare")
LEFT: Final = "find / -xdev \\( -iname '*edgefleet*' -o -iname '*edge-agent*' \\) -not -path '/proc/*'"


@dataclass(frozen=True)
class System:
    """One system. packages: besides Python, curl and certificates; by: how the agent gets there; boots: whether systemd runs."""

    name: str
    suite: str
    packages: tuple[str, ...]
    by: str
    arch: str = ""
    boots: bool = True


SYSTEMS: Final = (
    System("debian-13", "trixie", (), "deb"),
    System("debian-12", "bookworm", ("python3-venv",), "wheel"),
    System("debian-13-arm64", "trixie", ("python3-venv",), "wheel", "arm64", boots=False),
)


@dataclass
class Trial:
    """What happened on one system."""

    road: Road
    system: System
    steps: dict[str, float] = field(default_factory=dict)
    seen: dict[str, Any] = field(default_factory=dict)

    def step(self, name: str, do: Callable[[], Any]) -> Any:
        """Do one thing and note how long it took."""
        print(f"installer: {self.system.name}: {name}", file=sys.stderr, flush=True)
        begun = time.monotonic()
        try:
            return do()
        finally:
            self.steps[name] = round(time.monotonic() - begun, 1)

    def line(self) -> tuple[str, str]:
        """Return the line as it is printed for a new device, and without its token."""
        command = [
            str(Path(sys.executable).with_name("edgectl")),
            "device",
            "enroll",
            "--label",
            f"system={self.system.name}",
        ]
        environment = {**os.environ, "EDGECTL_SERVER": self.road.server.url, "EDGECTL_TOKEN": self.road.token}
        printed = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stderr
        (line,) = [one.strip() for one in printed.splitlines() if "sh install.sh)" in one]
        return line, line.partition(" | ")[2]

    def device(self) -> dict[str, Any]:
        """Return the device of this system, as the server shows it."""
        (row,) = self.road.edgectl("device", "list", "-l", f"system={self.system.name}")["items"]
        shown: dict[str, Any] = self.road.edgectl("device", "show", row["id"])
        return shown

    def is_online(self) -> bool:
        """Return whether the server sees the device."""
        return bool(self.device()["status"] == "online")

    def publish(self) -> None:
        """Publish the digits example for this device, and deploy it there."""
        version = f"1.0.{SYSTEMS.index(self.system)}"
        files = {"calibration": "data/calibration.npz", "eval": "data/eval.npz", "labels": "labels.txt",
                 "preprocess": "preprocess.json", "postprocess": "postprocess.json"}  # fmt: skip
        flags = [part for name, file in files.items() for part in (f"--{name}", str(DIGITS / file))]
        self.road.edgectl("publish", DIGITS / "digits-1.0.0.onnx", "--name", "digits", "--version", version, *flags)
        self.road.edgectl("deploy", f"digits@{version}", "--to", f"system={self.system.name}")

    def on_booted(self, machine: Booted) -> None:
        """Do all of it where systemd runs."""
        line, again = self.line()
        machine.put(DIGITS / "samples" / "7.png", PICTURE)
        before = set(machine.run(LEFT).splitlines())
        said = self.step("the line", lambda: machine.run(line))
        self.seen["said"] = said.splitlines()
        assert ("/usr/bin/edge-agent" in said) == (self.system.by == "deb"), said
        assert eventually(self.is_online, WAIT_S, 0.5), machine.run("journalctl -u edge-agent -n 40 --no-pager")
        name = self.device()["id"]
        self.seen["user"] = self._is_service(machine)
        self.step("a release", self.publish)
        self.step("it answers", lambda: self._answers(machine))
        self.step("reboot", machine.reboot)
        assert eventually(lambda: self._is_active(machine), WAIT_S, 0.5)
        self.step("it answers after the reboot", lambda: self._answers(machine))
        self._is_service(machine)
        assert eventually(self.is_online, WAIT_S, 0.5)
        findings = json.loads(machine.run("edge-agent doctor -o json || true"))["findings"]
        self.seen["doctor"] = [one for one in findings if one["level"] != "ok"]
        assert not [one for one in findings if one["level"] == "bad"], findings
        self.step("the line again", lambda: machine.run(f"{again} </dev/null"))
        assert self.device()["id"] == name
        self.step("it answers after the line again", lambda: self._answers(machine))
        self._is_service(machine)
        self.step("removal", lambda: self._remove(machine, said))
        assert "edge-agent" not in machine.run(
            "systemctl list-units --all --no-pager --no-legend; systemctl list-unit-files"
        )
        self.seen["left"] = sorted(set(machine.run(LEFT).splitlines()) - before)
        self.road.edgectl("device", "decommission", name, "--yes")

    def on_emulated(self, machine: Emulated) -> None:
        """Do what can be done where no init runs, and everything takes some twenty times as long."""
        line, again = self.line()
        machine.put(DIGITS / "samples" / "7.png", PICTURE)
        before = set(machine.run(LEFT).splitlines())
        said = self.step("the line", lambda: machine.run(line))
        self.seen |= {"said": said.splitlines(), "processor": machine.run("uname -m").strip()}
        assert eventually(self.is_online, WAIT_S, 0.5), said
        name = self.device()["id"]
        self.seen["profile"] = self.device()["profile"]
        self.step("a release", self.publish)
        self.step("it answers", lambda: self._answers(machine))
        self.step("the line again", lambda: machine.run(f"{again} </dev/null"))
        assert self.device()["id"] == name
        self.step("it answers after the line again", lambda: self._answers(machine))
        self.step("removal", lambda: self._remove(machine, said))
        self.seen["left"] = sorted(set(machine.run(LEFT).splitlines()) - before)
        self.road.edgectl("device", "decommission", name, "--yes")

    def _is_active(self, machine: Booted) -> bool:
        return machine.run("systemctl is-active edge-agent || true").strip() == "active"

    def _is_service(self, machine: Booted) -> str:
        """Check that the agent and its workers run as the account of the service, and return its name."""
        facts = machine.run("systemctl show edge-agent -p ActiveState,UnitFileState,MainPID,NRestarts")
        shown = dict(line.split("=", 1) for line in facts.splitlines())
        assert (shown["ActiveState"], shown["UnitFileState"], shown["NRestarts"]) == ("active", "enabled", "0"), facts
        groups = "find /sys/fs/cgroup/system.slice/edge-agent.service -name cgroup.procs -exec cat {} +"
        users = machine.run(f"{groups} | while read -r id; do stat -c %U /proc/$id; done")
        assert set(users.split()) == {"edgefleet"}, users
        return users.split()[0]

    def _answers(self, machine: Root) -> str:
        """Wait until the model answers, and return what it says."""
        said: list[str] = []

        def asks() -> bool:
            said.append(machine.run(f"edge-agent infer digits {PICTURE} 2>&1 || true"))
            return re.match(r"\S+7\.png: 7 [0-9.]+", said[-1]) is not None

        assert eventually(asks, WAIT_S, 1.0), said[-1]
        return said[-1]

    def _remove(self, machine: Root, said: str) -> None:
        """Do what the installer said removes it."""
        told = dict(re.findall(r"^(stop|remove) +(.+)$", said, re.MULTILINE))
        machine.run(told["stop"])
        machine.run(told["remove"].removeprefix("stop it, then ").partition("; the operator:")[0])
        assert machine.run("command -v edge-agent || true") == ""


def missing() -> list[str]:
    """Return what this machine lacks for the systems."""
    found = [name for name in NEEDED if shutil.which(name) is None]
    return found if os.geteuid() == 0 else ["root", *found]


def attempt(road: Road, system: System, folder: Path) -> dict[str, Any]:
    """Try one system and return what happened."""
    trial = Trial(road, system)
    here = subprocess.run(["dpkg", "--print-architecture"], capture_output=True, text=True, check=True).stdout.strip()
    packages = (*BASE, *system.packages)
    try:
        if system.boots:
            with trial.step(
                "boot", lambda: Booted(folder, system.suite, ("systemd-sysv", "dbus", *packages), here)
            ) as machine:
                trial.on_booted(machine)
        else:
            with trial.step("start", lambda: Emulated(folder, system.suite, packages, system.arch)) as machine:
                trial.on_emulated(machine)
    except (AssertionError, RootError, subprocess.SubprocessError) as error:
        return {"ok": False, "fault": str(error)[:3000], "steps": trial.steps, **trial.seen}
    return {"ok": not trial.seen["left"], "steps": trial.steps, **trial.seen}


def remove(folder: Path) -> None:
    """Remove a folder, but nothing that is mounted in it: what a system had may be the devices of this machine."""
    subprocess.run(["rm", "-rf", "--one-file-system", str(folder)], check=False)


def main(n: int, seed: int) -> Mapping[str, Any]:
    """Try the systems, and return what happened on each."""
    del seed  # nothing is drawn
    if lacks := missing():
        return {
            "ok": False,
            "missing": lacks,
            "next": "as root: apt-get install -y mmdebstrap systemd-container qemu-user-static",
        }
    folder = Path(tempfile.mkdtemp(prefix="ef-installer-"))
    tried = {}
    try:
        dist.build(ROOT, folder / "dist")
        road = Road(folder / "server", "embedded" if find_mosquitto() is None else "mosquitto", converts=True)
        try:
            road.edgectl("server", "agent-packages", "add", folder / "dist", "--data", road.data)
            for system in SYSTEMS[:n]:
                (folder / system.name).mkdir()
                tried[system.name] = attempt(road, system, folder / system.name)
                remove(folder / system.name)
        finally:
            road.close()
    finally:
        remove(folder)
    return {"ok": all(one["ok"] for one in tried.values()), "systems": tried}
