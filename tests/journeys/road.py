"""The whole road of a model on one machine: server process, broker, agent processes, `edgectl`; and the server's own keys.

`Road.house` are the server's services on the same data folder, in this process: for what no command of a server would sign.
"""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, redirect_stdout
from pathlib import Path
from typing import Any, ClassVar

import httpx

from edgefleet_cli.main import run
from edgefleet_protocol.digest import sha256_hex
from edgefleet_protocol.ids import ReleaseRef
from edgefleet_server.clock import SystemClock
from edgefleet_server.settings import ALL_ROLES, ServerRole
from tests.agent.field import QUICK, Agent, eventually
from tests.server.fleet.house import PROFILE, House
from tests.support.device_python import PATIENCE
from tests.support.ports import kept_port
from tests.support.servers import ServerProcess, copy_server, server_process

PATIENCE_S = 90.0 * PATIENCE
ASK_AGAIN_S = 0.5
"""Between two questions to the server, which costs processor time that devices need."""


class Road:
    """One server on free ports that it keeps over a restart, and its devices.

    converts: whether models are published that have to be converted; without it no worker for that is started, which takes a second of
    processor time at each start.
    """

    def __init__(self, folder: Path, broker: str, *, converts: bool = False) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.token = copy_server(self.data)
        self.broker = broker
        self.broker_port = kept_port()
        roles = ALL_ROLES if converts else [role for role in ALL_ROLES if role is not ServerRole.CONVERTER]
        self._flags = (
            "--device-port",
            str(kept_port()),
            "--broker-port",
            str(self.broker_port),
            "--roles",
            ",".join(roles),
        )
        self._stack = ExitStack()
        self.travellers: list[Traveller] = []
        self.server: ServerProcess
        self.start()
        self.house = House(f"sqlite:///{self.data / 'edgefleet.db'}", self.data, SystemClock())

    def start(self) -> None:
        """Start the server, on the ports it had before."""
        flags = ("--broker", self.broker, *self._flags)
        self.server = self._stack.enter_context(server_process(self.data, self.token, *flags))

    def kill(self) -> None:
        """kill -9 of the server."""
        self.server.process.send_signal(signal.SIGKILL)
        self.server.process.wait()
        (self.data / "run" / "server.json").unlink()

    def close(self) -> None:
        """Stop everything."""
        for traveller in self.travellers:
            traveller.stop()
        self._stack.close()
        self.house.db.dispose()

    def edgectl(self, *arguments: str | Path, code: int = 0) -> Any:
        """Return what `edgectl … -o json` prints."""
        reach = ("--server", self.server.url, "--token", self.token, "-o", "json")
        out = io.StringIO()
        with redirect_stdout(out):
            ended = run([*map(str, arguments), *reach])
        assert ended == code, out.getvalue()
        return json.loads(out.getvalue()) if out.getvalue() else None

    def block_requests(self) -> int:
        """Return how many requests for parts of bundles the server has had since it started."""
        with self.server.client() as client:
            lines = client.get("/metrics").text.splitlines()
        (line,) = [line for line in lines if line.startswith('edgefleet_gateway_total{what="block_requests"}')]
        return int(float(line.rpartition(" ")[2]))

    def release(self, ref: str, bundle: bytes) -> None:
        """Sign a bundle with the server's keys, without a conversion, and want it everywhere."""
        self.house.release(ref, bundles={PROFILE: bundle})
        self.want(ref)

    def want(self, ref: str) -> None:
        """Want a release that is signed everywhere."""
        self.house.fleet.deployer.deploy(ReleaseRef.parse(ref), selector="")


class Traveller(Agent):
    """A real agent, enrolled over HTTPS by `edge-agent enroll`. CLAIM: further flags of its claim token."""

    CLAIM: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        road: Road,
        name: str,
        profile: str = PROFILE,
        labels: Mapping[str, str] | None = None,
        **environment: str,
    ) -> None:
        self.road = road
        self.state = road.folder / name
        self.state.mkdir()
        self.environment: Mapping[str, str] = {**os.environ, **QUICK, **environment}
        self.log = self.state / "agent.log"
        self.process = None
        flags = [flag for key, value in (labels or {}).items() for flag in ("--label", f"{key}={value}")]
        claim = road.edgectl("device", "enroll", "--profile", profile, *flags, *self.CLAIM)["tokens"][0]["token"]
        command = [self.python, "-m", "edgefleet_agent", "enroll", "-", "--state", str(self.state), "-o", "json"]
        asking = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(asking.communicate, claim, 60 * PATIENCE)
            self.while_it_enrols()
            out, err = answer.result()
        assert asking.returncode == 0, err
        self.name = str(json.loads(out)["device"])
        road.travellers.append(self)
        self.start()

    def while_it_enrols(self) -> None:
        """Do what an operator has to do meanwhile: nothing."""

    def shown(self) -> dict[str, Any]:
        """Return `edgectl device show`."""
        device: dict[str, Any] = self.road.edgectl("device", "show", self.name)
        return device

    def told(self, name: str, **facts: Any) -> dict[str, Any]:
        """Wait until the server shows these facts of a model on the device, and return all it shows of the model."""
        seen: dict[str, Any] = {}

        def matches() -> bool:
            found = [model for model in self.shown()["models"] if model["model"] == name]
            seen.update(found[0] if found else {})
            return bool(found) and all(found[0][key] == value for key, value in facts.items())

        assert eventually(matches, PATIENCE_S, ASK_AGAIN_S), (
            f"wanted {facts}, shown {seen}\n{self.log.read_text()[-3000:]}"
        )
        return seen

    def events_told(self) -> list[dict[str, Any]]:
        """Return `edgectl device events`, newest first."""
        events: list[dict[str, Any]] = self.road.edgectl("device", "events", self.name, "--limit", "200")["items"]
        return events

    def ask(self, name: str, inputs: list[dict[str, Any]]) -> httpx.Response:
        """Send one request to the device's own API."""
        url = f"{self.status()['infer_url']}/v2/models/{name}/infer"
        return httpx.post(url, json={"inputs": inputs}, timeout=60)

    def ask_four(self, name: str) -> httpx.Response:
        """Ask a model of four numbers."""
        return self.ask(name, [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1.0, 0.0, 0.0, 0.0]}])

    def served(self, name: str) -> str:
        """Return the version that answers, waiting for one."""
        answers: list[httpx.Response] = []

        def answered() -> bool:
            if "infer_url" not in self.status():  # an agent that has just been started has not written it yet
                return False
            answers.append(self.ask_four(name))
            return answers[-1].is_success

        assert eventually(answered, PATIENCE_S), answers[-1].text if answers else self.log.read_text()[-3000:]
        return str(answers[-1].json()["model_version"])


def blob_path(data: Path, bundle: bytes) -> Path:
    """Return where the server keeps a blob."""
    digest = sha256_hex(bundle)
    return data / "blobs" / digest[:2] / digest
