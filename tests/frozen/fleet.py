"""A small fleet that the programs of a frozen version run, stopped in the middle of a rollout."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.agent.worker.models import classifier_onnx
from tests.frozen.archive import FrozenError

DEVICES = ("a", "b", "c")
PROVING = 3
"""Requests that a version answers on probation."""
WAIT_S = 120.0
SETTINGS = {
    "EDGEFLEET_SERVER_ENGINE_TICK_S": "0.5",
    "EDGEFLEET_AGENT_INFER_PORT": "0",
    "EDGEFLEET_AGENT_PROBATION_S": "3600",
    "EDGEFLEET_AGENT_PROBATION_INFERENCES": str(PROVING),
    "EDGEFLEET_AGENT_PROBATION_MIN_S": "0",
    "EDGEFLEET_AGENT_RECONNECT_MAX_S": "1",
    "EDGEFLEET_AGENT_TELEMETRY_INTERVAL_S": "2",
    "EDGEFLEET_AGENT_DISK_RESERVE_BYTES": "0",
    "EDGEFLEET_AGENT_MEMORY_RESERVE_BYTES": "0",
}
NOT_KEPT = ("run", "logs", "*.lock", ".lock", "root.pem", "root.passphrase")
"""What is of the machine or true only while a process runs. The root key goes to a safe place, as keys/README.txt asks."""


class FrozenFleet:
    """A server and three devices of the programs in `environment/bin`, in a folder of their own. Use as a context manager."""

    def __init__(self, environment: Path, folder: Path) -> None:
        self.folder = folder
        self.draws = folder / "draws"
        path = f"{environment / 'bin'}:/usr/bin:/bin:/usr/sbin"
        self._env = {"PATH": path, "HOME": str(folder), "NO_COLOR": "1", "FROZEN_DRAWS": str(self.draws), **SETTINGS}
        self._agents: dict[str, subprocess.Popen[bytes]] = {}
        self._server: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> FrozenFleet:
        """Return the fleet with nothing running yet."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stop what runs."""
        for process in (*self._agents.values(), self._server):
            if process is not None and process.poll() is None:
                process.send_signal(signal.SIGTERM)
                process.wait(60)

    def run(self, *command: str, stdin: str | None = None) -> Any:
        """Return the JSON that a command of the frozen version prints."""
        done = subprocess.run(
            [*command, "-o", "json"],
            env=self._env,
            cwd=self.folder,
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise FrozenError(f"{' '.join(command)} ended with {done.returncode}: {done.stdout}{done.stderr}")
        return json.loads(done.stdout) if done.stdout.strip() else None

    def start(self, name: str, *command: str) -> subprocess.Popen[bytes]:
        """Start a process; its output goes to NAME.log."""
        with (self.folder / f"{name}.log").open("wb") as log:
            return subprocess.Popen(
                command, env=self._env, cwd=self.folder, stdout=log, stderr=log, start_new_session=True
            )

    def start_server(self, *flags: str) -> None:
        """Make a server, start it and use its admin token from now on. flags: of `server start`; the last one of a kind holds."""
        subprocess.run(
            ["edgectl", "server", "init", "server"], env=self._env, cwd=self.folder, check=True, capture_output=True
        )
        ports = ("--port", "0", "--device-port", "0", "--broker", "embedded")
        self._server = self.start("server", "edgectl", "server", "start", "--data", "server", *ports, *flags)
        run = self.folder / "server/run/server.json"
        self.until(run.exists)
        self._env["EDGECTL_SERVER"] = json.loads(run.read_text())["api_url"]
        self._env["EDGECTL_TOKEN"] = (self.folder / "server/admin.token").read_text().strip()

    def stop_server(self) -> None:
        """Stop the server; its devices go on."""
        assert self._server is not None
        self._server.send_signal(signal.SIGTERM)
        self._server.wait(60)

    def enrol(self, name: str) -> str:
        """Enrol a device, start its agent and return its id."""
        token = self.run("edgectl", "device", "enroll", "--label", "site=north")["tokens"][0]["token"]
        device = str(self.run("edge-agent", "enroll", "-", "--state", name, stdin=token)["device"])
        self._agents[name] = self.start(name, "edge-agent", "run", "--state", name)
        return device

    def publish(self, version: str, scale: float) -> None:
        """Publish a model of 171 bytes, by a real conversion."""
        path = self.folder / f"tiny-{version}.onnx"
        path.write_bytes(classifier_onnx(scale))
        named = ("--name", "tiny", "--version", version, "--profile", "generic-x86_64-ort")
        self.run("edgectl", "publish", str(path), *named)

    def model(self, name: str) -> dict[str, Any]:
        """Return what an agent says of its model, {} when nothing."""
        try:
            status = json.loads((self.folder / name / "run/status.json").read_text())
        except (OSError, ValueError):
            return {}
        found: dict[str, Any] = next((model for model in status["models"] if model["model"] == "tiny"), {})
        return found | {"url": status["infer_url"]}

    def is_at(self, name: str, version: str, phase: str) -> bool:
        """Whether an agent has a version as active, in a phase."""
        model = self.model(name)
        return model.get("phase") == phase and str(model.get("active_target")).startswith(f"tiny/{version}/")

    def ask(self, name: str, times: int) -> None:
        """Ask the model of a device."""
        body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1.0, 0.0, 0.0, 0.0]}]}
        for _ in range(times):
            request = urllib.request.Request(
                f"{self.model(name)['url']}/v2/models/tiny/infer", json.dumps(body).encode()
            )
            with urllib.request.urlopen(request, timeout=30) as answer:
                answer.read()

    def prove(self, name: str, version: str) -> None:
        """Let a version that is on probation prove itself."""
        self.until(lambda: self.is_at(name, version, "probation"))
        self.ask(name, PROVING)
        self.until(lambda: self.is_at(name, version, "committed"))

    def until(self, is_so: Callable[[], object]) -> None:
        """Wait until something is so. Raises FrozenError when it takes too long."""
        deadline = time.monotonic() + WAIT_S
        while not is_so():
            if time.monotonic() > deadline:
                raise FrozenError(f"waited {WAIT_S:g} s; the devices: {[self.model(name) for name in DEVICES]}")
            time.sleep(0.1)

    def roll(self, version: str, stages: str) -> str:
        """Start a rollout to all devices and return its id."""
        flags = ("--to", "site=north", "--stages", stages, "--soak", "0s")
        return str(self.run("edgectl", "rollout", "create", f"tiny@{version}", *flags)["id"])

    def shown(self, rollout: str) -> dict[str, Any]:
        """Return a rollout."""
        found: dict[str, Any] = self.run("edgectl", "rollout", "show", rollout)
        return found


def make(environment: Path, folder: Path) -> dict[str, Any]:
    """Run the fleet, leave `server/` and `agent/` in a folder, and return what is in them.

    One rollout has finished. In another one the canary stage is open: one device of it is healthy, the other one, whose state is
    kept, is on probation, with messages that the server has not had.
    """
    with FrozenFleet(environment, folder) as fleet:
        fleet.start_server()
        devices = {name: fleet.enrol(name) for name in DEVICES}
        fleet.run("edgectl", "token", "create", "--name", "watcher", "--role", "viewer")
        fleet.publish("1.0.0", 1.0)
        fleet.publish("1.1.0", 2.0)
        finished = fleet.roll("1.0.0", "100%")
        for name in DEVICES:
            fleet.prove(name, "1.0.0")
        fleet.until(lambda: fleet.shown(finished)["state"] == "finished")
        running = fleet.roll("1.1.0", "2,100%")
        fleet.until(lambda: sum(fleet.is_at(name, "1.1.0", "probation") for name in DEVICES) == 2)
        kept, other = (name for name in DEVICES if fleet.is_at(name, "1.1.0", "probation"))
        fleet.prove(other, "1.1.0")
        fleet.until(lambda: fleet.shown(running)["counts"]["healthy"] == 1)
        fleet.stop_server()
        frozen_at = int(time.time())
        fleet.ask(kept, 1)
        time.sleep(3)  # longer than an interval of telemetry: what it sums up waits for the server
    for part, name in (("server", "server"), ("agent", kept)):
        shutil.copytree(folder / name, folder / "kept" / part, symlinks=True, ignore=shutil.ignore_patterns(*NOT_KEPT))
    return {
        "frozen_at": frozen_at,
        "draws": len(fleet.draws.read_text()),
        "devices": sorted(devices.values()),
        "device": devices[kept],
        "finished": finished,
        "running": running,
    }
