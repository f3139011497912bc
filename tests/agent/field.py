"""A server side as in the gateway's tests, and real `edge-agent run` processes that talk to it."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from edgefleet_agent.core.durable import encode_record, read_record, write_file
from edgefleet_agent.identity.store import CA_FILE, CERT_FILE, KEY_FILE, RECORD_FILE, ROOT_FILE, Identity
from edgefleet_agent.install.records import DesiredOk, ModelRecord
from edgefleet_protocol.desired import Ref
from edgefleet_protocol.digest import sha256_hex
from edgefleet_protocol.ids import ModelName
from edgefleet_server.fleet.desired.model import ModelChange
from edgefleet_server.gateway.broker.model import BrokerKind, find_mosquitto
from tests.agent.worker.models import bundle_bytes, classifier_onnx
from tests.server.fleet.house import PROFILE, KeyedDevice
from tests.server.gateway.conftest import Site
from tests.support.device_python import DEVICE_PYTHON, IS_EMULATED, PATIENCE

WAIT_S = 40.0 * PATIENCE
LIFE_LINE = (sys.executable, "-m", "edgefleet_server.gateway.broker.parent_watch")
"""Becomes the agent and ends with us, also when we are killed."""
PACE = {
    "EDGEFLEET_AGENT_INFER_TIMEOUT_S": 30,
    "EDGEFLEET_AGENT_CONNECT_TIMEOUT_S": 10,
    "EDGEFLEET_AGENT_META_TIMEOUT_S": 10,
    "EDGEFLEET_AGENT_BLOCK_TIMEOUT_S": 1,
    "EDGEFLEET_AGENT_NO_PROGRESS_S": 120,
    "EDGEFLEET_AGENT_SLOW_LIMIT_MARGIN_MS": 100,
}
"""What an emulated device gets more time for."""
QUICK = {
    "EDGEFLEET_AGENT_INFER_PORT": "0",
    "EDGEFLEET_AGENT_PROBATION_S": "1",
    "EDGEFLEET_AGENT_PROBATION_MIN_S": "0",
    "EDGEFLEET_AGENT_RECONNECT_MAX_S": "1",
    "EDGEFLEET_AGENT_KEEPALIVE_S": "60",
    "EDGEFLEET_AGENT_DISK_RESERVE_BYTES": "0",
    "EDGEFLEET_AGENT_MEMORY_RESERVE_BYTES": "0",
    **({name: str(value * PATIENCE) for name, value in PACE.items()} if IS_EMULATED else {}),
}


def eventually(is_true: Callable[[], Any], wait_s: float = WAIT_S, pause_s: float = 0.03) -> Any:
    """Return the first true value within the time, else the last one. pause_s: between two looks."""
    until = time.monotonic() + wait_s
    while True:
        value = is_true()
        if value or time.monotonic() > until:
            return value
        time.sleep(pause_s)


def deploy(site: Site, version: str, data: bytes, model: str = "digits") -> None:
    """Publish one bundle and want it everywhere."""
    ref = site.house.release(f"{model}@{version}", bundles={PROFILE: data})
    site.house.fleet.deployer.deploy(ref, selector="")


def publish(site: Site, version: str, data: bytes, model: str = "digits") -> Ref:
    """Publish one bundle and return how a document names it."""
    site.house.release(f"{model}@{version}", bundles={PROFILE: data})
    return Ref(target=f"{model}/{version}/{PROFILE}.bundle", sha256=sha256_hex(data), length=len(data))


def offer(agent: "Agent", ref: Ref | None, *, model: str = "digits", **fields: Any) -> int:
    """Sign a document that wants `ref` (None: nothing) as a rollout does, and return its gen. fields: of the Ref."""
    wish = msgspec.structs.replace(ref, **fields) if ref is not None else None
    return agent.site.house.fleet.desired.set_models([ModelChange(agent.id, ModelName(model), wish)])[0].gen


def write_identity(site: Site, device: KeyedDevice, state: Path, url: str = "https://127.0.0.1:1") -> None:
    """Write what `edge-agent enroll` would have written. url: of the device listener, by default one that is not there."""
    folder = state / "identity"
    folder.mkdir(parents=True)
    enrolment = device.enrolment
    write_file(folder / KEY_FILE, device.key_pem())
    write_file(folder / CERT_FILE, enrolment.cert.encode())
    write_file(folder / CA_FILE, site.house.signing.ca_pem())
    write_file(folder / ROOT_FILE, site.house.signing.root_chain()[0])
    identity = Identity(
        device=device.id,
        tenant="acme",
        profile=PROFILE,
        broker_host=site.endpoint.host,
        broker_port=site.endpoint.port,
        mqtt=site.endpoint.mqtt,
        url=url,
        enrolled_at="2026-11-25T00:00:00+00:00",
        server_id=site.house.fleet.addresses.server_id,
        cert_from_s=int(time.time()),
        cert_until_s=int(time.time()) + 90 * 86_400,
    )
    write_file(folder / RECORD_FILE, encode_record(identity))


def move_broker(state: Path, port: int) -> None:
    """Let the device believe that its broker is at another port of this machine."""
    path = state / "identity" / RECORD_FILE
    known = read_record(Identity, path)
    assert known is not None
    write_file(path, encode_record(msgspec.structs.replace(known, broker_port=port)))


def new_site(folder: Path) -> Site:
    """Start a server side on mosquitto, or on the embedded broker where there is none."""
    folder.mkdir(exist_ok=True)
    return Site(folder, BrokerKind.MOSQUITTO if find_mosquitto() is not None else BrokerKind.EMBEDDED)


@dataclass(frozen=True)
class Proven:
    """A site and a device that served digits 1.0.0 and proved it, both stopped: each test begins with a copy of them.

    folder: with `server` and `device` in it. first: how a document names that version, which the rollout `r-0` brought.
    """

    folder: Path
    device: KeyedDevice
    first: Ref

    def copied_to(self, folder: Path) -> None:
        """Copy the server's and the device's folder into this one."""
        shutil.copytree(
            self.folder / "server", folder / "server", symlinks=True, ignore=shutil.ignore_patterns("broker")
        )
        shutil.copytree(
            self.folder / "device", folder / "device", symlinks=True, ignore=shutil.ignore_patterns("run", "agent.log")
        )


def proven(folder: Path) -> Proven:
    """Let a device install digits 1.0.0 and prove it, in this folder."""
    site = new_site(folder / "server")
    agent = Agent(site, folder / "device")
    try:
        agent.start()
        first = publish(site, "1.0.0", bundle_bytes(classifier_onnx()))
        offer(agent, first, rollout="r-0")
        agent.wait("committed", "1.0.0")
        assert eventually(lambda: agent.reported().phase == "committed")
        assert agent.stop() == 0
    finally:
        agent.stop()
        site.close()
    return Proven(folder, agent.device, first)


@contextmanager
def started_agent(**environment: str) -> Iterator["Agent"]:
    """Yield a running agent with a site of its own, both in a temporary folder; they end with the block."""
    with tempfile.TemporaryDirectory(prefix="ef-agent-") as name:
        site = new_site(Path(name, "server"))
        agent = Agent(site, Path(name, "device"), None, **environment)
        try:
            agent.start()
            yield agent
        finally:
            agent.stop()
            site.close()


class Agent:
    """One agent process on one state folder; may be killed and started again. python: what runs it."""

    python = DEVICE_PYTHON

    def __init__(self, site: Site, state: Path, device: KeyedDevice | None = None, **environment: str) -> None:
        self.site = site
        self.state = state
        self.device = device or site.house.device()
        self.environment: Mapping[str, str] = {**os.environ, **QUICK, **environment}
        if not (state / "identity").exists():
            write_identity(site, self.device, state)
        self.log = state / "agent.log"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def id(self) -> Any:
        """Device id."""
        return self.device.id

    def start(self) -> None:
        """Start the process."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *LIFE_LINE,
                    str(os.getpid()),
                    self.python,
                    "-m",
                    "edgefleet_agent",
                    "run",
                    "--state",
                    str(self.state),
                ],
                env=dict(self.environment),
                stderr=log,
                stdout=log,
                start_new_session=True,
            )

    def kill(self) -> None:
        """kill -9 of agentd alone; its children notice by themselves."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """SIGTERM and wait; returns the exit status."""
        if self.process is None or self.process.poll() is not None:
            return 0
        told_before = len(self.log.read_bytes())
        self.process.send_signal(signal.SIGTERM)
        try:
            status = self.process.wait(timeout=20 * PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            status = self.process.wait()
        told = self.log.read_bytes()[told_before:].decode(errors="replace")
        assert "Traceback" not in told, told[-4000:]
        return status

    def status(self) -> dict[str, Any]:
        """Return `run/status.json` of the running process, {} when it has written none yet."""
        try:
            data: dict[str, Any] = json.loads((self.state / "run" / "status.json").read_text())
        except (OSError, ValueError):
            return {}
        is_ours = self.process is not None and data.get("pid") == self.process.pid
        return data if is_ours else {}

    def model(self, name: str = "digits") -> dict[str, Any]:
        """Return the status of one model, {} when unknown."""
        return next((m for m in self.status().get("models", []) if m["model"] == name), {})

    def wait(self, phase: str, version: str = "", name: str = "digits") -> dict[str, Any]:
        """Wait until the model is in a phase (with that version active) and return its status."""

        def there() -> bool:
            model = self.model(name)
            target = f"{name}/{version}/{PROFILE}.bundle" if version else model.get("active_target")
            return model.get("phase") == phase and model.get("active_target") == target

        assert eventually(there), f"{self.model(name)}\n{self.log.read_text()[-3000:]}"
        return self.model(name)

    def infer(
        self, name: str = "digits", x: Sequence[float] = (1.0, 0.0, 0.0, 0.0), *, wait_s: float = 10.0
    ) -> dict[str, Any]:
        """Ask the device for an inference of four numbers and return the answer."""
        body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": list(x)}]}
        request = urllib.request.Request(
            f"{self.status()['infer_url']}/v2/models/{name}/infer",
            data=json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=wait_s * PATIENCE) as response:
            answer: dict[str, Any] = json.load(response)
        return answer

    def comes_to_answer(self, version: str, name: str = "digits") -> bool:
        """Whether that version answers soon: after a switch the one before may still take requests until it drains."""
        return bool(eventually(lambda: self.infer(name)["model_version"] == version))

    def record(self, name: str = "digits") -> ModelRecord:
        """Return what the agent has on its disk about the model."""
        return read_record(ModelRecord, self.state / "models" / name / "current.msgpack") or ModelRecord(model=name)

    def desired(self) -> DesiredOk:
        """Return what the agent has verified of its newest document."""
        found = read_record(DesiredOk, self.state / "desired.ok")
        assert found is not None
        return found

    def command(self, *arguments: str, state: bool = True) -> subprocess.CompletedProcess[str]:
        """Run `edge-agent` on the agent's state folder. state: False for a command that needs none."""
        return subprocess.run(
            [self.python, "-m", "edgefleet_agent", *arguments, *(["--state", str(self.state)] if state else [])],
            env=dict(self.environment),
            check=False,
            capture_output=True,
            text=True,
            timeout=120 * PATIENCE,
        )

    def freeze(self, module: bytes) -> int:
        """Stop a child process of that module which does not serve; returns its process id, 0 when there is none yet."""
        assert self.process is not None
        serving = self.status().get("workers", {}).values()
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text("ascii").split()
        for pid in map(int, children):
            if module in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0") and pid not in serving:
                os.kill(pid, signal.SIGSTOP)
                return pid
        return 0

    def reported(self, name: str = "digits") -> Any:
        """Return what the server knows of the model."""
        models = self.site.house.fleet.reader.device(self.id).models
        return next((m for m in models if m.model == name), None)

    def events(self) -> list[Any]:
        """Return the device's events, newest first."""
        return list(self.site.house.fleet.feed.page(device_id=self.id, before=None, since=None, limit=200)[0])
